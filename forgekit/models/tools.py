"""Other people's programs, run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from forgekit.errors import CheckpointError, MachineError

TIMEOUT = 6 * 3600  # seconds; a 70B conversion takes less than one


def interpreter(tool: str) -> str:
    """The Python that has a tool.

    ``FORGEKIT_RUNTIME_<TOOL>_PYTHON``; else the environment of that name among the engines that ``make`` keeps in the
    user's cache; else this one.
    """
    named = os.environ.get(f"FORGEKIT_RUNTIME_{tool.upper()}_PYTHON")
    if named:
        return named
    import platformdirs

    kept = Path(platformdirs.user_cache_dir("forgekit")) / "engines" / tool / "bin" / "python"
    return str(kept) if kept.is_file() else sys.executable


def require(tool: str, module: str) -> str:
    """The interpreter of a tool, if the module is there.

    Raises:
        MachineError: it is not.
    """
    python, variable = interpreter(tool), f"FORGEKIT_RUNTIME_{tool.upper()}_PYTHON"
    try:
        asked = subprocess.run(  # noqa: S603 - the interpreter is this one or the one the user named
            [python, "-c", f"import importlib.util as u; raise SystemExit(u.find_spec({module!r}) is None)"],
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{python} cannot be run: {error}", hint=f"set {variable}") from error
    if asked.returncode:
        raise MachineError(
            f"{module} is not installed",
            where=python,
            hint=f"install it, or set {variable}",
        )
    return python


def run_python(
    tool: str, module: str, arguments: Sequence[str], *, where: str, variables: Mapping[str, str] | None = None
) -> str:
    """Run a tool's Python and give back what it printed.

    Raises:
        MachineError: the tool is not installed.
        CheckpointError: it failed; the last thing it said is in the message.
    """
    python = require(tool, module)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(variables or {})
    try:
        ran = subprocess.run(  # noqa: S603 - as above
            [python, *arguments],
            capture_output=True,
            check=False,
            env=environment,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{module} ran for {TIMEOUT // 3600} hours and was stopped", where=where) from error
    if ran.returncode:
        lines = [line.strip() for line in (ran.stderr + "\n" + ran.stdout).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "nothing")
        died = f"signal {-ran.returncode}" if ran.returncode < 0 else f"exit {ran.returncode}"
        raise CheckpointError(f"{module} failed ({died}): {said}", where=where)
    return ran.stdout
