"""An engine in a process of its own, asked through a pipe."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import forgekit
from forgekit.errors import MachineError
from forgekit.models.tools import interpreter
from forgekit.runtimes import Answer, Runtime

CHILD = Path(__file__).with_name("child.py")
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES")
GRACE = 30.0  # seconds that an engine's own process may be late in saying that it stopped its worker
STARTING = 300.0  # seconds an import may take on a cold disk


class Engine:
    """A runtime's process. Starts at the first question; each question has a worker of its own inside it.

    Args:
        threads: processor threads for arithmetic.
    """

    def __init__(self, runtime: Runtime, *, threads: int = 1) -> None:
        self.runtime = runtime
        self.threads = threads
        self.python = interpreter(runtime.interpreter or runtime.name)
        self.scratch = Path(tempfile.mkdtemp(prefix=f"forgekit-{runtime.name}-"))
        self.confined: Mapping[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process and everything it started, and remove its folder."""
        self._end()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """Load one artifact and generate.

        Args:
            question: see ``child.work``; ``seconds`` and ``memory`` are its limits.
        """
        question = {"scratch": str(self.scratch), **question}
        try:
            ready = self._start()
        except MachineError as error:
            return Answer(outcome="missing", phase="import", said=error.what)
        if ready is not None:
            return ready
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(question)).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._end()
            return Answer(outcome="died", phase="import", said="the engine's process ended")
        tree = self._line(question["seconds"] + GRACE)
        if tree is None:
            self._end()
            return Answer(outcome="died", phase="load", said="the engine's process ended and took its answer along")
        return _answer(tree, question)

    def _start(self) -> Answer | None:
        """None once the engine is ready; else why it is not."""
        if self._process is not None and self._process.poll() is None:
            return None
        self._end()
        read, write = os.pipe()
        settings = {
            "module": self.runtime.driver.__module__,
            "driver": self.runtime.driver.__qualname__,
            "file": inspect.getfile(self.runtime.driver),
            "package": str(Path(forgekit.__file__).parent),
            "scratch": str(self.scratch),
            "descriptor": write,
            "warm": self.runtime.forks,
            "network": bool(self.runtime.remote),
        }
        try:
            with (self.scratch / "engine.txt").open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the interpreter is this one or the one the user named
                    [self.python, "-P", "-s", str(CHILD), json.dumps(settings)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=(write,),
                    env=self._environment(),
                    cwd=self.scratch,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(read)
            os.close(write)
            variable = f"FORGEKIT_RUNTIME_{self.runtime.name.upper()}_PYTHON"
            raise MachineError(f"{self.python} cannot be run: {error.strerror}", hint=f"set {variable}") from error
        os.close(write)
        self._answers, self._buffer = read, b""
        tree = self._line(STARTING)
        if tree is None or tree.get("outcome") != "ready":
            said = self._last_words() if tree is None else str(tree.get("error"))
            self._end()
            return Answer(outcome="missing", phase="import", said=said)
        self.confined = tree["confined"]
        return None

    def _environment(self) -> dict[str, str]:
        scratch = str(self.scratch)
        kept = {name: os.environ[name] for name in (*KEPT, *self.runtime.remote) if name in os.environ}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return (
            kept
            | threads
            | {"HOME": scratch, "TMPDIR": scratch, "XDG_CACHE_HOME": scratch, "HF_HOME": scratch}
            | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "DO_NOT_TRACK": "1"}
            | dict(self.runtime.variables)
        )

    def _line(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None where the process ends or is late."""
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                return None
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        tree: dict[str, Any] = json.loads(line)
        return tree

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.scratch / "engine.txt").read_text("utf-8", "replace").strip().splitlines()
            if lines:
                return lines[-1]
        return "the engine's process ended without a word"

    def _end(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(OSError):
            os.close(self._answers)
        self._process, self._answers = None, -1


def _answer(tree: dict[str, Any], question: Mapping[str, Any]) -> Answer:
    outcome, phase = tree["outcome"], str(tree.get("phase", ""))
    said = str(tree.get("error", ""))
    if outcome == "died":
        number = tree.get("signal")
        how = f"{signal.Signals(number).name} (signal {number})" if number else f"exit code {tree.get('exit')}"
        last = _last_line(str(tree.get("log", "")))
        said = f"its process died of {how} during {phase}" + (f", after saying: {last}" if last else "")
    elif outcome == "time":
        said = f"it was still busy with {phase} after {question['seconds']:g} s and was stopped"
    elif outcome == "memory":
        said = f"it wanted more than the {question['memory'] / 2**30:.1f} GiB it was given, during {phase}"
    elif outcome == "refused" and (told := _told(str(tree.get("log", "")), said)):
        said = f"{said} ({told})"
    found = {**tree, "scratch": question["scratch"]}
    return Answer(outcome=outcome, phase=phase, said=" ".join(said.split())[:600], found=found)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _told(log: str, said: str) -> str:
    """The line in which an engine written in C says what it did not like; its exception seldom does."""
    lines = [line.strip() for line in log.splitlines() if ":" in line]
    lines = [line for line in lines if not line.startswith(("Traceback", "File ")) and said[:40] not in line]
    for mark in ("error", "wrong", "missing", "invalid", "fail"):
        found = next((line for line in lines if mark in line.lower() and line not in said), "")
        if found:
            return found[:300]
    return ""
