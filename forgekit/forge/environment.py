"""What a forge ran on, and which code it was: the part of a record that explains a difference."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import forgekit

LIBRARIES = (
    "forgekit",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "numpy",
    "safetensors",
)


def environment(*, threads: int, device: str) -> dict[str, Any]:
    """Versions, processor, GPU and threads."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": threads,
        "device": device,
        "libraries": {name: said for name in LIBRARIES if (said := _version(name))},
    }
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    elif "torch" in sys.modules:
        found["kernels"] = sys.modules["torch"].backends.cpu.get_cpu_capability()
    return found


def code_hash() -> str:
    """One hash over every Python file of the package, by path."""
    root = Path(forgekit.__file__).parent
    state = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        state.update(f"{path.relative_to(root).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{state.hexdigest()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - procfs
            names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
            return next(names, platform.processor())
    except OSError:
        return platform.processor() or os.uname().machine
