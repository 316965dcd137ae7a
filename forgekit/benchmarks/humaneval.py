"""HumanEval: 164 Python functions, by their original tests."""

from __future__ import annotations

from forgekit.benchmarks._evalplus import HUMANEVAL
from forgekit.benchmarks._score import evalplus_benchmark

BENCHMARK = evalplus_benchmark("humaneval", HUMANEVAL, ("base",), total=164)
