"""MBPP+: MBPP with some thirty-five times as many tests; a sample must pass both sets."""

from __future__ import annotations

from forgekit.benchmarks._evalplus import MBPP, SUITES
from forgekit.benchmarks._score import evalplus_benchmark

BENCHMARK = evalplus_benchmark("mbpp_plus", MBPP, SUITES, total=378)
