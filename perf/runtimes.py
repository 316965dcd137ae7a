"""Probes against the bare engine, and preflight against opening the same headers with safetensors."""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forging

from forgekit import tiny
from forgekit.families import FAMILIES

PYTHON = sys.executable
SHARDS, LAYERS, EXPERTS, HIDDEN, FFN = 50, 94, 176, 4096, 1536  # 50,000 tensors, half a terabyte that is not there
PROMPTS = [[17, 40, 300, 8, 55, 91, 120, 7], [5, 6, 7, 8, 9, 10, 11, 12]]

BARE = """\
import json, sys, time
import torch, transformers
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
config = transformers.AutoConfig.from_pretrained(folder)
model = getattr(transformers, config.architectures[0]).from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager").eval()
def generate(ids):
    made, given, cache = [], torch.tensor([ids]), None
    with torch.no_grad():
        for _ in range(8):
            out = model(input_ids=given, past_key_values=cache, use_cache=True)
            cache, made = out.past_key_values, [*made, int(out.logits[0, -1].argmax())]
            given = torch.tensor([made[-1:]])
    return made
print([generate(ids) for ids in prompts], [generate(ids) for ids in prompts])
"""
BARE_LLAMA = """\
import json, sys
from llama_cpp import Llama
def generate(model, ids):
    made = []
    model.reset()
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        made.append(token)
        if len(made) == 8:
            return made
for path in sys.argv[1].split(":"):
    model = Llama(path, n_ctx=256, n_threads=1, n_threads_batch=1, check_tensors=True, verbose=False)
    print([[generate(model, ids) for ids in json.loads(sys.argv[2])] for _ in range(2)])
    model.close()
"""
PROBE = """\
import json, sys
from forgekit.runtimes import RUNTIMES
from forgekit.probing.engine import Engine
name, paths, prompts, family = sys.argv[1], sys.argv[2].split(":"), json.loads(sys.argv[3]), sys.argv[4]
question = {"name": "m", "family": family, "precision": "BF16", "exact": True, "towers": False,
    "device": "cpu", "threads": 1, "tokens": 8, "prompts": prompts, "fallback": prompts, "seconds": 600,
    "memory": 20 << 30}
with Engine(RUNTIMES[name]) as engine:
    for path in paths:
        answer = engine.ask(question | {"path": path})
        assert answer.outcome == "answered", answer.said
        print(answer.found["outputs"])
"""
PREFLIGHT = """\
import pathlib, sys
from forgekit.runtimes import RUNTIMES
from forgekit.forms import folder_forms
from forgekit.probing.cells import foretold
cells = foretold(folder_forms(pathlib.Path(sys.argv[1])), [RUNTIMES[name] for name in RUNTIMES])
assert len(cells) == len(RUNTIMES), cells
"""
OPENED = """\
import pathlib, sys
from safetensors import safe_open
seen = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with safe_open(path, framework="np") as file:
        seen += sum(len(file.get_slice(name).get_shape()) > 0 for name in file.keys())
assert seen > 50_000, seen
"""


def probe() -> Iterator[str]:
    """The same load and generations by a script of a few lines, and in a confined, watched process."""
    from run import alternate, median, row, run

    with tempfile.TemporaryDirectory() as scratch:
        folder = forging.synthetic("qwen3_moe", Path(scratch) / "moe", layers=4)
        asked = json.dumps(PROMPTS)
        ours, peer = alternate(
            lambda: run([PYTHON, "-c", PROBE, "transformers", str(folder), asked, "qwen3_moe"]),
            lambda: run([PYTHON, "-c", BARE, str(folder), asked]),
            5,
        )
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
        yield row(
            f"probe in Transformers, {size:.2f} GB / the same in a script",
            f"{median(ours):.2f} s",
            f"{median(peer):.2f} s",
            f"{median(ours) / median(peer):.2f}×",
            "≤ 1.1",
        )
    yield from _llama()


def _llama() -> Iterator[str]:
    """One file, and several in turn, as a model's types are probed: the engine is imported once for all."""
    from run import alternate, median, row, run

    from forgekit.errors import ForgeError
    from forgekit.models import llama_cpp

    asked = json.dumps(PROMPTS)
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "dense"
        tiny.write(FAMILIES["qwen3"], small)
        for layers, count in ((1, 1), (4, 1), (14, 1), (28, 1), (14, 4)):
            file = Path(scratch) / f"{layers}.gguf"
            try:
                _made(llama_cpp.convert, layers, small, file)
            except ForgeError as error:
                yield f"llama.cpp is left out: {error.what}"
                return
            files = ":".join([str(file)] * count)
            ours, peer = alternate(
                lambda files=files: run([PYTHON, "-c", PROBE, "llama_cpp", files, asked, "qwen3_moe"]),  # type: ignore[misc]
                lambda files=files: run([PYTHON, "-c", BARE_LLAMA, files, asked]),  # type: ignore[misc]
                7,
            )
            size = f"{file.stat().st_size / 1e9:.1f} GB"
            what = size if count == 1 else f"{count} files of {size} in turn"
            start = median(ours) - median(peer)
            yield row(
                f"probe in llama.cpp, {what} / the same in a script",
                f"{median(ours):.2f} s",
                f"{median(peer):.2f} s",
                f"{median(ours) / median(peer):.2f}×",
                f"≤ 1.1; {start:+.2f} s, for one more process" if count == 1 else "≤ 1.1",
            )


def _made(convert: Callable[..., Any], layers: int, tokenizer: Path, file: Path) -> None:
    if file.exists():
        return
    model = forging.synthetic("qwen3_moe", file.with_suffix(""), layers=layers)
    for part in tokenizer.glob("tokenizer*"):
        shutil.copy(part, model)
    convert(model, file, "bf16", name="m", pre_tokenizer=None)
    shutil.rmtree(model)


def preflight() -> Iterator[str]:
    """What all nine runtimes foretell of 50 shards, from headers in sparse files."""
    from run import alternate, median, row, run

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = headers(folder)
        ours, peer = alternate(
            lambda: run([PYTHON, "-c", PREFLIGHT, str(folder)], watch=True),
            lambda: run([PYTHON, "-c", OPENED, str(folder)], watch=True),
            5,
        )
        what = f"preflight of {SHARDS} shards, {count:,} tensors, in nine runtimes"
        yield row(
            f"{what} / opening them with safetensors",
            f"{median(ours):.2f} s",
            f"{median(peer):.2f} s",
            f"{median(ours) / median(peer):.2f}×",
            "< 2 s",
        )
        memory: Callable[[Any], float] = lambda cost: cost.memory  # noqa: E731
        yield row(
            "the same: peak memory",
            f"{median(ours, memory) / 2**20:.0f} MiB",
            f"{median(peer, memory) / 2**20:.0f} MiB",
            f"{median(ours, memory) / median(peer, memory):.2f}×",
            "< 200 MB",
        )


def headers(folder: Path) -> int:
    """Write the headers of a large qwen3_moe checkpoint over files that are all holes; gives the number of tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (151936, HIDDEN),
        "lm_head.weight": (151936, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {at + norm: (HIDDEN,) for norm in ("input_layernorm.weight", "post_attention_layernorm.weight")}
        shapes |= {at + f"self_attn.{n}.weight": (128,) for n in ("q_norm", "k_norm")}
        shapes |= {at + "self_attn.q_proj.weight": (8192, HIDDEN), at + "self_attn.o_proj.weight": (HIDDEN, 8192)}
        shapes |= {at + f"self_attn.{n}_proj.weight": (512, HIDDEN) for n in "kv"}
        shapes[at + "mlp.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            here = f"{at}mlp.experts.{expert}."
            shapes |= {here + f"{n}_proj.weight": (FFN, HIDDEN) for n in ("gate", "up")}
            shapes[here + "down_proj.weight"] = (HIDDEN, FFN)
    names = list(shapes)
    share = -(-len(names) // SHARDS)
    listed = {}
    for number in range(SHARDS):
        header, start = {}, 0
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        for name in names[number * share : (number + 1) * share]:
            end = start + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
            listed[name], start = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + start)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    config = tiny.config(FAMILIES["qwen3_moe"]) | {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_experts": EXPERTS,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return len(names)
