"""llama.cpp's own converter and quantiser, each in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from forgekit.errors import MachineError
from forgekit.models.tools import run_python

VARIABLE = "FORGEKIT_LLAMA_CPP"
CONVERT = """\
import runpy, sys
folder, pre, *rest = sys.argv[1:]
sys.path.insert(0, folder)
sys.path.insert(1, folder + "/gguf-py")
import conversion.base as base
if pre:
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = [folder + "/convert_hf_to_gguf.py", *rest]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
QUANTISE = """\
import ctypes, sys
import llama_cpp
source, target, kind = sys.argv[1], sys.argv[2], int(sys.argv[3])
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = kind
params.nthread = int(sys.argv[4])
raise SystemExit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))
"""


def sources() -> Path:
    """The folder of llama.cpp's sources, which has the converter; wheels do not.

    Raises:
        MachineError: it is not on this machine.
    """
    import platformdirs

    named = os.environ.get(VARIABLE)
    places = [Path(named)] if named else [Path(platformdirs.user_cache_dir("forgekit")) / "llama.cpp"]
    for place in places:
        if (place / "convert_hf_to_gguf.py").is_file():
            return place
    raise MachineError(
        "llama.cpp's converter is not here",
        where=str(places[0]),
        hint=f"unpack vendor/llama.cpp of llama-cpp-python's source archive there, or set {VARIABLE}",
    )


def convert(model: Path, target: Path, outtype: str, *, name: str, pre_tokenizer: str | None) -> None:
    """A checkpoint folder to GGUF. The name stands in the file, so it is given and not the folder's.

    Raises:
        MachineError: converter, torch or transformers are missing.
        CheckpointError: the converter refuses the model.
    """
    aside = target.with_name(f".{target.name.lstrip('.')}.partial")
    arguments = ["-c", CONVERT, str(sources()), pre_tokenizer or "", str(model), "--outfile", str(aside)]
    arguments += ["--outtype", outtype, "--model-name", name]
    try:
        run_python("llama_cpp", "torch", arguments, where=str(model))
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def quantise(source: Path, target: Path, kind: int) -> None:
    """One GGUF to another type. The bytes do not depend on the number of threads.

    Raises:
        MachineError: llama-cpp-python is missing.
        CheckpointError: the quantiser refuses the file.
    """
    aside = target.with_name(f".{target.name}.partial")
    threads = str(os.cpu_count() or 1)
    try:
        run_python(
            "llama_cpp", "llama_cpp", ["-c", QUANTISE, str(source), str(aside), str(kind), threads], where=str(source)
        )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
