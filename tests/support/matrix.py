"""Forged artifacts with their weights, one per recipe of the embedded catalog, shared by every worker of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from forgekit.probing.bench import Limits, unavailable
from forgekit.runtimes import RUNTIMES
from tests.support import forged
from tests.support.models import forge_it

# (family or artifact, runtime): the invariant that foretells the failure. Every other pair of these runtimes runs.
KNOWN = {
    ("deepseek_v2", "llama_cpp"): "grouped-routing",
    ("deepseek_v2", "mlx"): "stated-fields",
    ("deepseek_v2", "vllm"): "kernel-width",
    ("phimoe", "llama_cpp"): "stated-fields",
    ("phimoe", "vllm"): "head-bias",
    ("qwen2_5_omni", "llama_cpp"): "known-architecture",
    ("qwen2_5_omni", "mlx"): "known-architecture",
    ("qwen2_5_omni", "vllm"): "processor-files",
    ("qwen3-vl-shallow", "llama_cpp"): "deepstack-depth",
    ("qwen3-vl-shallow", "vllm"): "scaled-sections",
}
ENGINES = ("transformers", "llama_cpp", "mlx", "vllm")


def artifact(name: str, shared: Path) -> Path:
    """The artifact of one recipe, forged by whichever worker asks first."""
    folder = shared / name
    if not folder.exists():
        mine = shared / f".{name}-{os.getpid()}"
        shutil.rmtree(mine, ignore_errors=True)
        forge_it(forged.write_recipe(name, mine / "recipe"), mine / "out", prove=False, validate=False)
        try:
            (mine / "out").rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(mine)
    return folder


def missing(runtime: str) -> str:
    """Why an engine cannot be asked here; empty where it can."""
    return unavailable(RUNTIMES[runtime], None, Limits())


def converter_missing() -> str:
    """Why llama.cpp's converter cannot be run here; empty where it can."""
    from forgekit.errors import MachineError
    from forgekit.models.llama_cpp import sources

    try:
        sources()
    except MachineError as error:
        return error.what
    return missing("llama_cpp")
