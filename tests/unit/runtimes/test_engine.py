"""An engine may crash, hang, eat memory or reach out: that is an answer, and never the end of the run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from forgekit.probing.engine import Engine
from tests.support import engines

QUESTION = {
    "path": "/nowhere",
    "threads": 1,
    "tokens": 4,
    "prompts": [[1, 2], [3]],
    "fallback": [[1]],
    "seconds": 20.0,
    "memory": 2 << 30,
}


def ask(driver, **more):
    with Engine(engines.runtime(driver)) as engine:
        return engine.ask(QUESTION | {"logits": str(engine.scratch / "logits.bin")} | more)


def test_an_engine_that_behaves_is_measured_and_heard():
    answer = ask(engines.Steady)

    assert (answer.outcome, answer.phase) == ("answered", "done")
    assert answer.found["outputs"] == [[3, 4, 5, 6], [3, 4, 5, 6]] == answer.found["repeated"]
    assert answer.found["logits"] == [[6, 32], [5, 32]]
    assert answer.found["loadSeconds"] >= 0
    assert answer.found["peakBytes"] > 1 << 20


@pytest.mark.parametrize(
    ("driver", "outcome", "phase", "says"),
    [
        (engines.Segfault, "died", "load", "SIGSEGV (signal 11)"),
        (engines.Abort, "died", "generate", "after saying: GGML_ASSERT(false) failed"),
        (engines.Exit, "died", "load", "exit code 7"),
        (engines.Raise, "refused", "load", "tensor 'blk.0.attn_q.weight' has wrong shape"),
        (engines.Unimportable, "missing", "import", "libengine.so.3"),
    ],
)
def test_how_an_engine_ends_is_told(driver, outcome, phase, says):
    answer = ask(driver)

    assert (answer.outcome, answer.phase) == (outcome, phase)
    assert says in answer.said


def test_an_engine_that_hangs_is_stopped():
    began = time.monotonic()

    answer = ask(engines.Hang, seconds=1.0)

    assert answer.outcome == "time"
    assert answer.said == "it was still busy with load after 1 s and was stopped"
    assert time.monotonic() - began < 15


def test_a_worker_that_has_said_all_does_not_stay():
    with Engine(engines.runtime(engines.Linger)) as engine:
        first = engine.ask(QUESTION)
        worker = first.found["notes"]["worker"]
        second = engine.ask(QUESTION)

        assert (first.outcome, second.outcome) == ("answered", "answered")
        assert not Path(f"/proc/{worker}").exists()


def test_what_a_worker_leaves_behind_keeps_nobody_waiting():
    with Engine(engines.runtime(engines.Litter)) as engine:
        began = time.monotonic()
        answers = [engine.ask(QUESTION).outcome for _ in range(2)]

        assert answers == ["answered", "answered"]
        assert time.monotonic() - began < 15


def test_an_engine_that_eats_memory_is_stopped_before_the_machine_is():
    answer = ask(engines.Eat, memory=300 << 20)

    assert answer.outcome == "memory"
    assert "more than the 0.3 GiB" in answer.said


def test_one_dead_worker_leaves_the_engine_for_the_next_question():
    with Engine(engines.runtime(engines.Segfault)) as engine:
        first = engine.ask(QUESTION)
        process = engine._process.pid
        second = engine.ask(QUESTION)

        assert [first.outcome, second.outcome] == ["died", "died"]
        assert engine._process.pid == process


def test_an_engine_reaches_no_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with Engine(engines.runtime(engines.Caller)) as engine:
            answer = engine.ask(QUESTION | {"port": server.getsockname()[1]})
            confined = engine.confined
        server.settimeout(0.2)
        if "the network" in " ".join(confined["gaps"]):
            pytest.skip(f"unchecked: this kernel gives no network namespace: {confined['gaps']}")
        assert answer.outcome == "refused"
        assert confined["network"] == "its own loopback"
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_engine_writes_in_its_own_folder_only(tmp_path):
    with Engine(engines.runtime(engines.Writer)) as engine:
        answer = engine.ask(QUESTION | {"path": str(tmp_path / "model.gguf")})
        if any(gap.startswith("writing") for gap in engine.confined["gaps"]):
            pytest.skip(f"unchecked: this kernel has no landlock: {engine.confined['gaps']}")

    assert answer.outcome == "refused"
    assert "PermissionError" in answer.said
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_given_no_secrets_and_a_folder_of_its_own(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    with Engine(engines.runtime(engines.Nosy)) as engine:
        notes = engine.ask(QUESTION).found["notes"]

        assert notes["folder"] == str(engine.scratch)
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(notes["environment"])
    assert "HF_HUB_OFFLINE" in notes["environment"]


def test_a_closed_engine_leaves_nothing_behind():
    engine = Engine(engines.runtime(engines.Steady))
    engine.ask(QUESTION)
    process, scratch = engine._process.pid, engine.scratch

    engine.close()

    assert not scratch.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_engine_dies_with_whoever_started_it():
    script = """
import sys, time
from forgekit.probing.engine import Engine
from tests.support import engines
engine = Engine(engines.runtime(engines.Steady))
engine._start()
print(engine._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        process = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the engine outlived its parent")


def test_an_interpreter_that_is_not_there_is_a_missing_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("FORGEKIT_RUNTIME_STEADY_PYTHON", str(tmp_path / "python"))

    answer = ask(engines.Steady)

    assert answer.outcome == "missing"
    assert "cannot be run" in answer.said


def test_an_engine_that_vanishes_between_questions_is_started_again():
    with Engine(engines.runtime(engines.Steady)) as engine:
        engine.ask(QUESTION)
        engine._process.kill()
        engine._process.wait()

        assert engine.ask(QUESTION).outcome == "answered"


def test_two_engines_side_by_side_keep_their_answers_apart():
    answers = {}

    def run(number):
        with Engine(engines.runtime(engines.Steady)) as engine:
            answers[number] = engine.ask(QUESTION | {"prompts": [[number]]}).found["outputs"]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [[(number + step) % 32 for step in range(4)]] for number in range(4)}
