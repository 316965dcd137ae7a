"""HumanEval+: HumanEval with some eighty times as many tests; a sample must pass both sets."""

from __future__ import annotations

from forgekit.benchmarks._evalplus import HUMANEVAL, SUITES
from forgekit.benchmarks._score import evalplus_benchmark

BENCHMARK = evalplus_benchmark(
    "humaneval_plus", HUMANEVAL, SUITES, total=164, aliases={"humaneval+": "qwen3.5-4b-code-128k-forged"}
)
