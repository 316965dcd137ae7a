"""Twenty-four small problems of forgekit's own, in evalplus format: tier 4 without a network."""

from __future__ import annotations

from pathlib import Path

from forgekit.benchmarks._evalplus import SUITES, DatasetRef, Release
from forgekit.benchmarks._score import evalplus_benchmark

MINI = DatasetRef(
    name="forgekit mini",
    rules="humaneval",
    releases=(Release(version="1", sha256="f0a58da385126db78542500645c5a608cf1b63c7b40d4b9074ab9d7864430dee"),),
    embedded=Path(__file__).with_name("data") / "forgekit_mini.jsonl",
)
BENCHMARK = evalplus_benchmark("forgekit_mini", MINI, SUITES, total=24)
