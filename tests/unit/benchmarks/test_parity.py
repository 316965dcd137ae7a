"""The official scorer and ours, on the same samples: the same verdicts, problem by problem."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from forgekit.benchmarks import BENCHMARKS, ScoreSettings
from forgekit.benchmarks._evalplus import RELEASED, load
from forgekit.benchmarks.forgekit_mini import MINI
from tests.support.builders import WRONG
from tests.support.scoring import samples, sections, statuses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("evalplus") is None, reason="evalplus is not installed"),
]


def test_verdicts_are_the_official_ones(tmp_path):
    problems = load(MINI, file=None, offline=True).problems
    solutions = {task: found.canonical for task, found in problems.items()} | WRONG
    for task, code in sections("odd.txt").items():
        found = problems[task]
        solutions[task] = code.replace("{canonical}", found.canonical).replace("{entry}", found.entry_point)
    path = tmp_path / "samples.jsonl"
    path.write_bytes(samples(solutions))
    env = os.environ | {
        "HUMANEVAL_OVERRIDE_PATH": str(MINI.embedded),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }

    subprocess.run(
        [sys.executable, "-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", path, "--parallel", "2"],
        env=env,
        check=True,
        capture_output=True,
        timeout=300,
    )
    official = json.loads((tmp_path / "samples_eval_results.json").read_bytes())["eval"]
    ours = BENCHMARKS["forgekit_mini"].score(path.read_bytes(), ScoreSettings(offline=True))

    theirs = {
        task: {suite: rows[0][f"{suite}_status"] for suite in ("base", "plus")} for task, rows in official.items()
    }
    assert ours.scores[RELEASED].total == len(theirs)
    assert statuses(ours) == theirs
    assert {status for verdicts in theirs.values() for status in verdicts.values()} >= {"pass", "fail"}
