"""llama.cpp's own converter and quantiser, each in a process of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import MachineError
from forgekit.models.tools import run_python

VARIABLE = "FORGEKIT_LLAMA_CPP"
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST: "qwen2",
    ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST: "llama-bpe",
    ENGLISH
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen35",
}
"""Splitting patterns and llama.cpp's names for them. Source: src/llama-vocab.cpp, one regex per pre-tokenizer."""
CONVERT = """\
import runpy, sys
folder, stated, likely, predicts, *rest = sys.argv[1:]
sys.path.insert(0, folder)
sys.path.insert(1, folder + "/gguf-py")
import conversion.base as base
if not predicts:
    base.ModelBase.no_mtp = True
by_hash = base.TextModel.get_vocab_base_pre
def name(self, tokenizer):
    if stated:
        return stated
    try:
        return by_hash(self, tokenizer)
    except RuntimeError:
        if likely:
            return likely
        raise
base.TextModel.get_vocab_base_pre = name
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


def likely_pre_tokenizer(text: str) -> str:
    """llama.cpp's name of the way a ``tokenizer.json`` splits text before merging; empty where it is none of ours.

    The converter knows tokenizers by a hash over one encoded text, which a single added token changes. The pattern
    itself says as much: it is all that the name stands for.
    """
    try:
        stated = json.loads(text).get("pre_tokenizer")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if not isinstance(stated, dict):
        return ""
    if stated.get("type") == "ByteLevel" and stated.get("use_regex", True) and not stated.get("add_prefix_space"):
        return "gpt-2"
    parts = stated.get("pretokenizers")
    if stated.get("type") != "Sequence" or not isinstance(parts, list) or len(parts) != 2:
        return ""
    split, last = parts
    pattern = split.get("pattern") if isinstance(split, dict) and split.get("type") == "Split" else None
    if not isinstance(pattern, dict) or not isinstance(last, dict) or last.get("type") != "ByteLevel":
        return ""
    return "" if last.get("use_regex", True) else PATTERNS.get(str(pattern.get("Regex")), "")


def convert(model: Path, target: Path, outtype: str, *, name: str, pre_tokenizer: str | None) -> None:
    """A checkpoint folder to GGUF. The name stands in the file, so it is given and not the folder's.

    Raises:
        MachineError: converter, torch or transformers are missing.
        CheckpointError: the converter refuses the model.
    """
    aside = target.with_name(f".{target.name.lstrip('.')}.partial")
    arguments = conversion(model, outtype, name=name, pre_tokenizer=pre_tokenizer)
    try:
        run_python("llama_cpp", "torch", ["-c", CONVERT, *arguments, "--outfile", str(aside)], where=str(model))
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def conversion(model: Path, outtype: str, *, name: str, pre_tokenizer: str | None) -> list[str]:
    """What ``CONVERT`` is run with, but for the file it writes.

    Raises:
        MachineError: the converter is missing.
        CheckpointError: the folder holds no checkpoint.
    """
    # a config may promise prediction heads (mtp) that the weights lack, and the converter goes by the config
    predicts = "mtp" if any("mtp." in tensor for tensor in open_folder(model).tensors) else ""
    file = model / "tokenizer.json"
    likely = likely_pre_tokenizer(file.read_text("utf-8", "replace")) if file.is_file() else ""
    arguments = [str(sources()), pre_tokenizer or "", likely, predicts, str(model)]
    return [*arguments, "--outtype", outtype, "--model-name", name]


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
