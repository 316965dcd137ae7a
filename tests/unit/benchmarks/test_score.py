"""Scoring from end to end, on data sets of a few problems."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import shutil
import time
from fractions import Fraction
from pathlib import Path

import pytest

from forgekit.benchmarks import BENCHMARKS, ScoreSettings, _engine, find_benchmark
from forgekit.benchmarks import _score as scoring_module
from forgekit.benchmarks._evalplus import HUMANEVAL, MAIN, MBPP, RELEASED, load
from forgekit.benchmarks._score import as_json
from forgekit.errors import SamplesError
from tests.support.builders import WRONG, mini_samples
from tests.support.scoring import benchmark, problem, samples, settings, statuses, write_dataset

DOUBLE = problem("T/0", "    return 2 * x\n", [[1], [2]], [[30]])
ROOT = problem(
    "T/1",
    "    return -x[0] / x[1]\n",
    [[[2, 1]]],
    [[[4, 2]]],
    entry_point="find_zero",
    prompt="def find_zero(x):\n",
    atol=1e-4,
)
HALF = problem("T/2", "    return x / 2\n", [[1]], [[3]])
RIGHT = {
    "T/0": "def f(x):\n    return x + x\n",
    "T/1": "def find_zero(x):\n    return -x[0] / x[1]\n",
    "T/2": "def f(x):\n    return x * 0.5\n",
}


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset.jsonl", [DOUBLE, ROOT, HALF])


def score(path, solutions, **more):
    return benchmark(path).score(
        samples(solutions) if isinstance(solutions, dict) else solutions, settings(path.parent / "cache", **more)
    )


def test_right_answers_pass(dataset):
    scoring = score(dataset, RIGHT)

    assert (scoring.scores[MAIN].passed, scoring.scores[MAIN].total) == (3, 3)
    assert scoring.problems == ()


def test_the_release_loses_one_problem_and_says_so(dataset):
    scoring = score(dataset, RIGHT)

    released = scoring.scores[RELEASED]
    assert released.passed == 2
    assert "find_zero" in released.verdicts["T/1"][0]["base"].reason
    check = scoring.evidence["selfCheck"]
    assert check["canonical"][RELEASED] == {"passed": 2, "total": 3, "failed": ["T/1"]}
    assert check["canonical"][MAIN] == {"passed": 3, "total": 3, "failed": []}
    assert check["sound"]


def test_the_plus_tests_find_what_the_base_tests_do_not(dataset):
    memorised = RIGHT | {"T/0": "def f(x):\n    return {1: 2, 2: 4}[x]\n"}

    scoring = score(dataset, memorised)

    assert statuses(scoring)["T/0"] == {"base": "pass", "plus": "fail"}
    found = as_json(scoring)[MAIN]
    assert (found["base_pass"], found["plus_pass"], found["passed"]) == (3, 2, 2)


def test_a_base_failure_is_a_plus_failure(dataset):
    odd = RIGHT | {"T/0": "def f(x):\n    return 2 * x if x > 2 else 0\n"}

    scoring = score(dataset, odd)

    assert statuses(scoring)["T/0"] == {"base": "fail", "plus": "pass"}
    assert as_json(scoring)[MAIN]["plus_pass"] == 2


def test_a_missing_record_is_not_passed(dataset):
    scoring = score(dataset, {"T/0": RIGHT["T/0"]})

    assert (scoring.scores[MAIN].passed, scoring.scores[MAIN].total) == (1, 3)
    assert [str(found) for found in scoring.problems] == ["no record for T/1, T/2"]


def test_several_samples_of_each_problem_give_the_mean(dataset):
    wrong = dict.fromkeys(RIGHT, "def f(x):\n    return None\nfind_zero = f\n")
    data = samples(RIGHT) + samples(wrong)

    found = score(dataset, data).scores[MAIN]

    assert (found.passed, found.total, found.per_problem) == (3, 6, 2)
    assert found.rate == Fraction(1, 2)


def test_the_evidence_names_everything_a_verdict_depends_on(dataset):
    evidence = score(dataset, RIGHT).evidence

    assert set(evidence) >= {"dataset", "samples", "selfCheck", "isolation", "weakerBecause", "python", "numpy"}
    assert evidence["dataset"]["version"] is None
    assert evidence["dataset"]["problems"] == 3
    assert evidence["samples"]["records"] == 3


def test_a_compressed_data_set_has_the_same_identity(dataset, tmp_path):
    packed = tmp_path / "dataset.jsonl.gz"
    packed.write_bytes(gzip.compress(dataset.read_bytes(), mtime=0))

    plain = load(HUMANEVAL, file=dataset, offline=True)

    assert load(HUMANEVAL, file=packed, offline=True).sha256 == plain.sha256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the data set is empty"),
        (b"{", "not JSON"),
        (b"{}\n", "lacks task_id"),
        (b"7\n", "lacks task_id"),
        (json.dumps(DOUBLE | {"atol": "much"}).encode(), "atol that is no number"),
        (gzip.compress(json.dumps(DOUBLE).encode(), mtime=0)[:-20], "cut short"),
    ],
)
def test_a_bad_data_set_is_an_error(tmp_path, content, says):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)

    with pytest.raises(SamplesError, match=says):
        load(HUMANEVAL, file=path, offline=True)


def test_a_data_set_that_is_nowhere_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(MBPP.override, raising=False)

    with pytest.raises(SamplesError) as caught:
        BENCHMARKS["mbpp"].score(b'{"task_id": "Mbpp/2", "solution": ""}\n', ScoreSettings(offline=True))

    assert "MBPP_OVERRIDE_PATH" in caught.value.hint


def test_evalpluss_override_is_honoured(monkeypatch, dataset):
    monkeypatch.setenv(HUMANEVAL.override, str(dataset))

    assert load(HUMANEVAL, file=None, offline=True).found == HUMANEVAL.override


def test_evalpluss_cache_is_looked_into(monkeypatch, dataset, tmp_path):
    monkeypatch.delenv(HUMANEVAL.override, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "evalplus").mkdir()
    shutil.copy(dataset, tmp_path / "evalplus" / HUMANEVAL.cached_as)

    assert load(HUMANEVAL, file=None, offline=True).found == "evalplus's cache"


def test_a_canonical_solution_that_fails_is_the_data_sets_fault(tmp_path):
    path = write_dataset(tmp_path / "dataset.jsonl", [problem("T/0", "    return 1 / x\n", [[1], [0]])])

    with pytest.raises(SamplesError, match="canonical solution of T/0 fails on its own base tests: ZeroDivisionError"):
        score(path, {"T/0": "def f(x): return 1"})


def test_a_canonical_solution_that_differs_from_run_to_run_makes_the_scorer_unsound(tmp_path):
    random = "    import os\n    return os.urandom(8).hex()\n"
    path = write_dataset(tmp_path / "dataset.jsonl", [problem("T/0", random, [[1]]), DOUBLE | {"task_id": "T/1"}])

    check = score(path, {"T/0": "def f(x): return 1", "T/1": "def f(x): return 1"}).evidence["selfCheck"]

    assert not check["sound"]
    assert check["canonical"][MAIN]["failed"] == ["T/0"]


def test_every_mutant_is_rejected(dataset):
    check = score(dataset, RIGHT).evidence["selfCheck"]

    assert check["mutants"]["made"] >= 9
    assert check["mutants"]["rejected"] == check["mutants"]["made"]
    assert check["mutants"]["accepted"] == []


def test_a_data_set_that_accepts_a_mutant_shows_it(tmp_path):
    anything = problem(
        "Mbpp/1", "    return True\n", [[1]], entry_point="are_equivalent", prompt="def are_equivalent(x):\n"
    )
    path = write_dataset(tmp_path / "dataset.jsonl", [anything])

    scoring = benchmark(path, rules="mbpp").score(
        samples({"Mbpp/1": "def are_equivalent(x): return 1"}), settings(tmp_path / "cache")
    )

    assert scoring.evidence["selfCheck"]["mutants"]["accepted"] == ["Mbpp/1"]


def test_damaged_ground_truth_is_noticed(dataset):
    score(dataset, RIGHT)
    (frames,) = (dataset.parent / "cache" / "truth").rglob("frames.bin")
    data = bytearray(frames.read_bytes())
    data[-1] ^= 1
    frames.write_bytes(data)

    with pytest.raises(SamplesError, match="ground truth is damaged") as caught:
        score(dataset, RIGHT)
    assert "delete" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"{", b'{"tasks": {}}'])
def test_an_unreadable_cache_is_made_anew(dataset, damage):
    score(dataset, RIGHT)
    for name in ("manifest.json", "*.json"):
        for path in (dataset.parent / "cache").rglob(name):
            path.write_bytes(damage)

    assert score(dataset, RIGHT, self_check=True).scores[MAIN].passed == 3


def test_a_candidate_cannot_poison_the_cache(dataset):
    poison = (
        "import io, os\nfor root, _, names in os.walk('/'):\n    for name in names:\n"
        "        if name in ('frames.bin', 'manifest.json'): io.open(os.path.join(root, name), 'w').write('')\n"
        "def f(x): return 0\n"
    )
    first = score(dataset, RIGHT)
    if "leaving files behind" in first.evidence["isolation"]:
        pytest.skip("this machine's isolation does not promise that, and says so")
    before = first.scores[MAIN].passed

    score(dataset, RIGHT | {"T/0": poison})

    assert score(dataset, RIGHT).scores[MAIN].passed == before


def _score_in_a_process(path):
    return score(Path(path), RIGHT).scores[MAIN].passed


def test_several_processes_may_make_the_ground_truth_at_once(dataset):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_score_in_a_process, [str(dataset)] * 3) == [3, 3, 3]
    assert len(list((dataset.parent / "cache" / "truth").iterdir())) == 1


def test_a_verdict_that_changes_between_repeats_is_unstable(tmp_path, monkeypatch):
    """Slow every other time: of sixty such samples, some fail first and disagree with themselves after that."""
    monkeypatch.setattr(_engine, "MIN_LIMIT", 0.05)
    tasks = [f"T/{n}" for n in range(60)]
    path = write_dataset(tmp_path / "dataset.jsonl", [problem(task, "    return x\n", [[1]]) for task in tasks])
    fickle = (
        "import os, time\nslow = os.urandom(1)[0] < 128\n"
        "def f(x):\n    end = time.process_time() + 0.2\n    while slow and time.process_time() < end: pass\n"
        "    return x\n"
    )

    found = benchmark(path, ("base",)).score(samples(dict.fromkeys(tasks, fickle)), settings(tmp_path / "cache"))

    counted = found.scores[MAIN]
    reasons = [rows[0]["base"].reason for rows in counted.verdicts.values() if rows[0]["base"].status == "unstable"]
    assert len(reasons) == counted.unstable > 0
    assert all("three runs disagree: fail, pass, fail" in reason for reason in reasons)
    assert 0 < counted.passed < 60 - counted.unstable


def test_a_busy_machine_changes_no_verdict(tmp_path):
    """Half a second of work with one second allowed, while every processor has three others on it."""
    work = (
        "import time\ndef f(x):\n    end = time.process_time() + 0.5\n"
        "    while time.process_time() < end: pass\n    return x\n"
    )
    path = write_dataset(tmp_path / "dataset.jsonl", [problem(f"T/{n}", "    return x\n", [[1]]) for n in range(4)])
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_spin, daemon=True) for _ in range(3 * (multiprocessing.cpu_count()))]
    for process in busy:
        process.start()
    try:
        found = benchmark(path, ("base",)).score(
            samples({f"T/{n}": work for n in range(4)}), settings(tmp_path / "cache")
        )
    finally:
        for process in busy:
            process.kill()

    assert found.scores[MAIN].passed == 4


def _spin():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def test_progress_is_told_to_the_end(dataset):
    told = []

    score(dataset, RIGHT, progress=lambda done, total: told.append((done, total)))

    assert told[-1] == (6, 6)
    assert told[-6:] == [(n, 6) for n in range(1, 7)]


def test_the_embedded_benchmark_counts_its_wrong_ones():
    scoring = BENCHMARKS["forgekit_mini"].score(mini_samples(WRONG), ScoreSettings(offline=True))

    for found in scoring.scores.values():
        assert (found.passed, found.total) == (21, 24)
    assert scoring.evidence["dataset"]["version"] == "1"


def test_without_numpy_it_says_what_to_install(monkeypatch, dataset):
    monkeypatch.setattr(scoring_module.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(SamplesError, match="numpy is not installed") as caught:
        score(dataset, RIGHT)
    assert "forgekit[score]" in caught.value.hint


def test_aliases_find_their_benchmark():
    assert find_benchmark("humaneval+") is BENCHMARKS["humaneval_plus"]
    assert find_benchmark("arc") is None
