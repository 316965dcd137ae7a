"""MBPP: 378 sanitised Python problems, by their original tests."""

from __future__ import annotations

from forgekit.benchmarks._evalplus import MBPP
from forgekit.benchmarks._score import evalplus_benchmark

BENCHMARK = evalplus_benchmark("mbpp", MBPP, ("base",), total=378)
