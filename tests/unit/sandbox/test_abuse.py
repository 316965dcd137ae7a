"""Hostile candidates: none passes, none learns what it should not, none leaves anything behind."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from forgekit.sandbox import Sandbox
from tests.support.scoring import benchmark, problem, samples, sections, settings, statuses, write_dataset

SECRET = "expected-7f3a"
LITTER = "forgekit-abuse-litter"  # names of files that candidates try to leave
RIGHT = f"    return [x, {SECRET!r}, x * x]\n"
HONEST = "def f(x):\n" + RIGHT


def hostile():
    """(category, name, code) of each section of the file."""
    for title, code in sections("hostile.txt").items():
        category, _, name = title.partition(": ")
        yield category, name, code.replace("SECRET", repr(SECRET))


MADE = {
    "nothing": "",
    "a null byte": "def f(x):\n    return 0\0\n",
    "half a surrogate": "def f(x):\n    return '\ud800'\n",
    "parentheses": "def f(x):\n    return " + "(" * 5000 + ")" * 5000 + "\n",
    "a long sum": "def f(x):\n    return " + "+".join("1" for _ in range(50_000)) + "\n",
}
CHEATS = {name: code for category, name, code in hostile() if category != "time"} | MADE
SLOW = {name: code for category, name, code in hostile() if category == "time"}


with Sandbox() as strongest:
    ISOLATION = strongest.isolation
CHEATING, WAITING = pytest.mark.xdist_group("cheats"), pytest.mark.xdist_group("slow candidates")  # each scored once


def scored(folder, solutions, suites):
    problems = [problem(name, RIGHT, [[1], [2]], [[3], [4]]) for name in solutions]
    path = write_dataset(folder / "dataset.jsonl", problems)
    started = time.monotonic()
    scoring = benchmark(path, suites).score(samples(solutions), settings(folder / "cache"))
    return statuses(scoring), time.monotonic() - started, scoring


@pytest.fixture(scope="module")
def cheats(tmp_path_factory):
    before = children()
    found, _, _ = scored(tmp_path_factory.mktemp("cheats"), CHEATS | {"honest": HONEST}, ("base", "plus"))
    return found, children() - before


def children():
    mine = set()
    for entry in Path("/proc").iterdir() if Path("/proc").exists() else ():
        try:
            if entry.name.isdecimal() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                mine.add(entry.name)
        except OSError:
            continue
    return mine


@CHEATING
@pytest.mark.parametrize("name", CHEATS)
def test_it_does_not_pass(cheats, name):
    found, _ = cheats

    assert "pass" not in found[name].values()


@CHEATING
def test_the_honest_one_among_them_passes(cheats):
    found, _ = cheats

    assert found["honest"] == {"base": "pass", "plus": "pass"}


@CHEATING
def test_no_process_and_no_file_is_left_behind(cheats):
    _, processes = cheats

    assert processes == set()
    if "leaving files behind" in ISOLATION.gaps:
        pytest.skip(f"{ISOLATION.level} does not promise that, and says so")
    for folder in {Path("/tmp"), Path.cwd(), Path.home()}:
        assert not list(folder.glob(f"{LITTER}*"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return scored(tmp_path_factory.mktemp("slow"), SLOW | {"honest": HONEST}, ("base",))


@WAITING
@pytest.mark.parametrize("name", SLOW)
def test_it_is_stopped(slow, name):
    found, _, _ = slow

    assert found[name]["base"] in ("fail", "timeout")


@WAITING
def test_stopping_them_takes_seconds_and_not_hours(slow):
    found, seconds, _ = slow

    assert seconds < 120
    assert found["honest"] == {"base": "pass"}


def test_an_answer_that_crosses_late_is_no_answer(tmp_path):
    lurking = (
        "import threading, time, os, marshal\ndef late():\n    time.sleep(0.05)\n"
        f"    v = marshal.dumps([2, {SECRET!r}, 4], 2)\n    os.write(4, b'V' + len(v).to_bytes(4, 'little') + v)\n"
        f"def f(x):\n    threading.Thread(target=late).start()\n    return [x, {SECRET!r}, x * x] if x == 1 else 0\n"
    )

    found, _, _ = scored(tmp_path, {"lurking": lurking}, ("base",))

    assert found["lurking"]["base"] == "fail"


def test_what_a_candidate_does_to_its_inputs_changes_nothing_else(tmp_path):
    path = write_dataset(
        tmp_path / "dataset.jsonl",
        [
            problem("sort", "    return sorted(x)\n", [[[3, 1, 2]], [[3, 1, 2]]]),
            problem("same", "    return x\n", [[[3, 1]]]),
        ],
    )
    solutions = {"sort": "def f(x):\n    x.sort()\n    return x\n", "same": "def f(x):\n    x.clear()\n    return x\n"}

    found = statuses(benchmark(path, ("base",)).score(samples(solutions), settings(tmp_path / "cache")))

    assert found == {"sort": {"base": "pass"}, "same": {"base": "fail"}}


@pytest.mark.skipif("the network" in ISOLATION.gaps, reason="system calls cannot be filtered here, and that is said")
def test_a_candidate_cannot_reach_a_listening_socket(tmp_path):
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def listen():
            for _ in range(10):
                try:
                    heard.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        code = (
            f"import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n"
            f"    return [x, {SECRET!r}, x * x]\n"
        )
        found, _, _ = scored(tmp_path, {"calling": code}, ("base",))
        thread.join()

    assert found["calling"]["base"] == "fail"
    assert heard == []
