"""Write the weights at lower precision, beside the ones they are made from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from forgekit.checkpoint.opening import CONFIG, open_folder
from forgekit.checkpoint.patching import set_values
from forgekit.checkpoint.writing import Made, Piece, copy_companions, unchanged, write_shards, write_text
from forgekit.errors import CheckpointError
from forgekit.stages import Given, Outcome, Stage, StageParams, Work

GGUF = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
}
"""llama.cpp's file types by name. Source: enum llama_ftype in llama.h."""
MLX = {"4bit": 4, "8bit": 8, "3bit": 3, "6bit": 6}
BITSANDBYTES = {"nf4": 4, "fp4": 4, "int8": 8}
DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
ONNX = ("f32", "int8")
EXPORT = """\
import sys
from pathlib import Path
import torch
from forgekit.families import FAMILIES
from forgekit.models.loading import load
from transformers.exporters import OnnxConfig, OnnxExporter
source, target, family = sys.argv[1:4]
model = load(Path(source), FAMILIES[family], attention="eager").require_sound(Path(source)).text
model.config.use_cache = False
ids = torch.arange(3, 19).reshape(2, 8)
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True)).save_pretrained(target)
if sys.argv[4] == "int8":
    from onnxruntime.quantization import QuantType, quantize_dynamic
    whole, small = Path(target, "model.onnx"), Path(target, "small.onnx")
    quantize_dynamic(whole, small, weight_type=QuantType.QInt8, use_external_data_format=True)
    for path in (whole, Path(target, "model.onnx.data")):
        path.unlink()
    small.rename(whole)
"""
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class Params(StageParams):
    format: Literal["gguf", "mlx", "safetensors", "onnx"]
    quant_types: list[str]
    device_targets: list[str] = []
    pre_tokenizer: str | None = None  # llama.cpp's name for it; without one its converter must know the vocabulary


def problems(given: Given) -> Iterator[str]:
    params = given.params
    known = {"gguf": [*GGUF], "mlx": [*MLX], "safetensors": [*DTYPES, *BITSANDBYTES], "onnx": [*ONNX]}[params.format]
    if strange := [name for name in params.quant_types if _named(params.format, name) not in known]:
        yield f"quantTypes names {strange[0]!r}; {params.format} has {', '.join(known)}"
    if not params.quant_types:
        yield "quantTypes is empty"


def _named(kind: str, name: str) -> str:
    return name.upper() if kind == "gguf" else name.lower().replace("-", "")


def run(work: Work) -> Outcome:
    """Write one file or folder per type.

    Raises:
        MachineError: llama.cpp, mlx-lm, bitsandbytes or onnxruntime is missing.
        CheckpointError: the tool refuses the model; its own words are in the message.
    """
    params: Params = work.params
    written = {}
    for number, name in enumerate(params.quant_types, 1):
        kind = _named(params.format, name)
        if params.format == "gguf":
            written[kind] = _gguf(work, kind)
        elif params.format == "mlx":
            written[kind] = _mlx(work, kind)
        elif params.format == "onnx":
            written[kind] = _onnx(work, kind)
        elif kind in DTYPES:
            written[kind] = _cast(work, kind)
        else:
            written[kind] = _bitsandbytes(work, kind)
        work.progress(number, len(params.quant_types))
    for leftover in work.out.glob(".*.gguf"):
        leftover.unlink()
    sizes = {kind: sum(p.stat().st_size for p in _files(path)) for kind, path in written.items()}
    files = {f"quantised-{params.format}-{kind}": path for kind, path in written.items()}
    return Outcome(weights=False, files=files, notes={"format": params.format, "bytes": sizes})


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _gguf(work: Work, kind: str) -> Path:
    """llama.cpp's own converter, then its own quantiser."""
    from forgekit.models import llama_cpp

    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in str(work.recipe.get("name") or "model"))
    target = work.out / f"{stem}-{kind}.gguf"
    plain = {"F32", "F16", "BF16"}
    if kind in plain:
        llama_cpp.convert(work.source, target, kind.lower(), name=stem, pre_tokenizer=work.params.pre_tokenizer)
        return target
    dtype = next(iter(open_folder(work.source).tensors.values())).tensor.dtype
    middle = work.out / f".{stem}.gguf"
    if not middle.exists():
        outtype = {"BF16": "bf16", "F32": "f32"}.get(dtype, "f16")
        llama_cpp.convert(work.source, middle, outtype, name=stem, pre_tokenizer=work.params.pre_tokenizer)
    llama_cpp.quantise(middle, target, GGUF[kind])
    return target


def _mlx(work: Work, kind: str) -> Path:
    from forgekit.models.tools import run_python

    target = work.out / f"mlx-{kind}"
    arguments = ["-m", "mlx_lm", "convert", "--hf-path", str(work.source), "--mlx-path", str(target), "-q"]
    arguments += ["--q-bits", str(MLX[kind]), "--q-group-size", "64"]
    if not target.is_dir():
        run_python("mlx", "mlx_lm", arguments, where=str(work.source))
        (target / "README.md").unlink(missing_ok=True)  # a card about a model of its own
    return target


def _onnx(work: Work, kind: str) -> Path:
    """Transformers' own exporter, a graph that reads all tokens anew at each step; int8 by ONNX Runtime's quantiser."""
    from forgekit.models.tools import require, run_python

    target = work.out / f"onnx-{kind}"
    if not target.is_dir():
        require("onnx", "onnxscript")
        aside = work.out / f".onnx-{kind}"
        shutil.rmtree(aside, ignore_errors=True)
        arguments = ["-c", EXPORT, str(work.source), str(aside), work.family.name, kind]
        run_python("onnx", "onnxruntime", arguments, where=str(work.source))
        aside.rename(target)
        copy_companions(work.source, target)
    return target


def _bitsandbytes(work: Work, kind: str) -> Path:
    """Bitsandbytes through transformers' own writer; saved before any forward pass, which on a CPU repacks weights."""
    from forgekit.models.loading import load
    from forgekit.models.strategy import Strategy

    target = work.out / f"bitsandbytes-{kind}"
    device: Literal["cpu", "cuda"] = "cuda" if work.device == "cuda" else "cpu"
    strategy = Strategy("4-bit" if BITSANDBYTES[kind] == 4 else "8-bit", device, f"quant type {kind}")
    model = load(work.source, work.family, device=work.device, strategy=strategy, four_bit=kind)
    model.whole.save_pretrained(target)
    copy_companions(work.source, target)
    return target


def _cast(work: Work, kind: str) -> Path:
    """Every floating-point tensor rounded once to another dtype; the rest copied."""
    from functools import partial

    from forgekit.models.training import from_float64, to_float64

    source = open_folder(work.source)
    target = work.out / f"safetensors-{kind}"
    target.mkdir(exist_ok=True)
    wanted = DTYPES[kind]
    width = 4 if wanted == "F32" else 2

    def rounded(name: str, dtype: str) -> bytes:
        values = to_float64(source.read(name), dtype, name)
        made = from_float64(values, wanted)
        if wanted == "F16":
            import numpy as np

            if not np.isfinite(np.frombuffer(made, "<f2")).all():
                raise CheckpointError(f"tensor {name!r} holds values that float16 cannot", where=source.where)
        return made

    shards: dict[str, list[Piece]] = {name: [] for name in source.files}
    for name, placed in source.tensors.items():
        tensor = placed.tensor
        if tensor.dtype in ("BF16", "F16", "F32") and tensor.dtype != wanted:
            parts = (Made(partial(rounded, name, tensor.dtype), width * tensor.count),)
            shards[placed.file].append(Piece(name, wanted, tensor.shape, parts))
        else:
            shards[placed.file].append(unchanged(source, name))
    write_shards(target, shards)
    key = next((key for key in ("dtype", "torch_dtype") if key in source.config), "dtype")
    text = set_values(source.config_text, {(key,): TORCH[wanted]}, f"{work.source}/{CONFIG}")
    write_text(target / CONFIG, text)
    copy_companions(work.source, target)
    return target


STAGE = Stage(
    name="quant",
    params=Params,
    purpose="shrink",
    produces=frozenset({"quantised"}),
    reproducibility="exact-here",
    problems=problems,
    repeats=False,
    run=run,
)
