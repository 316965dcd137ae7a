"""The command line in a process of its own, as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "_cache"
NO_TRANSFORMERS = {"FORGEKIT_RUNTIME_TRANSFORMERS_PYTHON": "/nowhere/python"}


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def forgekit(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = 300,
    engines: bool = False,
) -> Ran:
    """Run ``forgekit`` with these arguments; a traceback is always a failure."""
    done = subprocess.run(
        [sys.executable, "-m", "forgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=dict(env) if env is not None else without_catalog(engines=engines),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def within(*arguments: object, env: Mapping[str, str] | None = None) -> Ran:
    """Run ``forgekit`` in this process: for tests of many commands, and not of the process."""
    from forgekit.cli import main

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    said = dict(env) if env is not None else without_catalog()
    code: Any = 0
    with (
        contextlib.chdir(ROOT),
        mock.patch.dict(os.environ, said, clear=True),
        mock.patch.object(sys, "argv", ["forgekit", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Ran(code or 0, *texts)


def small_catalog(folder: Path) -> Path:
    """The embedded catalog without the minis, whose recipes take seconds to run again."""
    return shutil.copytree(EMBEDDED, folder / "small-catalog", ignore=shutil.ignore_patterns("minis"))


def heeds_interrupts() -> None:
    """For ``preexec_fn``: let Ctrl-C reach a child, though whoever started the tests in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def without_catalog(*, engines: bool = False, **more: str) -> dict[str, str]:
    """This process's environment, but for anything that points at other catalogs.

    Args:
        engines: whether Transformers may be asked; starting it takes seconds, and few tests are about it.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FORGEKIT_")}
    kept["NO_COLOR"] = "1"
    return kept | ({} if engines else NO_TRANSFORMERS) | more


def python(code: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run a snippet in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=dict(env) if env is not None else without_catalog(),
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
