"""Twenty-four small problems of forgekit's own, in evalplus format: tier 4 without a network."""

from __future__ import annotations

from pathlib import Path

from forgekit.benchmarks._evalplus import SUITES, DatasetRef, Release
from forgekit.benchmarks._score import evalplus_benchmark

MINI = DatasetRef(
    name="forgekit mini",
    rules="humaneval",
    releases=(Release(version="1", sha256="2d12792916a8d3b87c1ea1535ecba1852f16e9923f6436dd70b4292adaf75b1a"),),
    embedded=Path(__file__).with_name("data") / "forgekit_mini.jsonl",
)
BENCHMARK = evalplus_benchmark("forgekit_mini", MINI, SUITES, total=24)
