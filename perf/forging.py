"""The forge against its peers: expert-prune as a stream, and the cost of a profile's hooks."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from forgekit import tiny
from forgekit.checkpoint.difference import compare
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import Made, Piece, cut_anew, write_shards, write_text
from forgekit.families import FAMILIES, Experts
from forgekit.metrics import METRICS, select
from forgekit.surgery import write
from forgekit.surgery.experts import DroppedExperts, mixture

HERE = Path(__file__).parent
LAYERS, HIDDEN, EXPERTS, FFN, WORDS, HEADS, KV, WIDTH = 16, 1024, 64, 512, 32000, 16, 4, 64
KEEP = 40
SHARD = 500_000_000


def synthetic(name: str, folder: Path, layers: int = LAYERS) -> Path:
    """A checkpoint of 3.4 GB in sixteen layers, drawn like the tiny ones."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, HIDDEN),
        "lm_head.weight": (WORDS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    fact = FAMILIES[name].fact(Experts)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + norm: (HIDDEN,) for norm in ("input_layernorm.weight", "post_attention_layernorm.weight")}
        rows = {"q_proj": HEADS * WIDTH, "k_proj": KV * WIDTH, "v_proj": KV * WIDTH}
        shapes |= {f"{at}self_attn.{part}.weight": (count, HIDDEN) for part, count in rows.items()}
        shapes[f"{at}self_attn.o_proj.weight"] = (HIDDEN, HEADS * WIDTH)
        if name == "qwen3_moe":
            shapes |= {f"{at}self_attn.{norm}.weight": (WIDTH,) for norm in ("q_norm", "k_norm")}
        shapes[fact.router.format(layer=layer)] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for template, shape in ((fact.gate, (FFN, HIDDEN)), (fact.up, (FFN, HIDDEN)), (fact.down, (HIDDEN, FFN))):
                shapes[template.format(layer=layer, expert=expert)] = shape
    pieces = [
        Piece(n, "BF16", s, (Made(lambda n=n, s=s: tiny.values(n, s), 2 * math.prod(s)),)) for n, s in shapes.items()
    ]
    folder.mkdir(parents=True)
    write_shards(folder, cut_anew(pieces, SHARD), durable=False)
    config = tiny.config(FAMILIES[name]) | {
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": WIDTH,
        "vocab_size": WORDS,
        fact.count_keys[0]: EXPERTS,
        "num_experts_per_tok": 8,
    }
    config |= {"moe_intermediate_size": FFN} if name == "qwen3_moe" else {"intermediate_size": FFN}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def keep_map(name: str, base: Path, path: Path) -> None:
    """The experts with the largest router rows: the same choice for ours and the peer."""
    made = mixture(open_folder(base), FAMILIES[name].fact(Experts))
    weigh = METRICS["router_l2"].weigh
    kept = {
        layer: tuple(select([weigh(made.weights(layer, expert)) for expert in range(EXPERTS)], KEEP))
        for layer in made.layers
    }
    write(path, DroppedExperts(kept=kept, experts=EXPERTS))


OURS = """
import sys
from pathlib import Path
from forgekit.families import FAMILIES
from forgekit.surgery import perform, read
base, out, cut, name, durable = sys.argv[1:]
perform(read(Path(cut).read_text(), cut), FAMILIES[name], Path(base), Path(out), durable=durable == "durable")
"""


def prune() -> Iterator[str]:
    from run import PYTHON, Cost, median, row, run

    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        folder = Path(scratch)
        for name in ("qwen3_moe", "mixtral"):
            base, cut = synthetic(name, folder / name), folder / f"{name}.json"
            keep_map(name, base, cut)
            size = open_folder(base).total

            def ours(out: str, durable: str, name: str = name, base: Path = base, cut: Path = cut) -> Cost:
                shutil.rmtree(folder / out, ignore_errors=True)
                (folder / out).mkdir()
                subprocess.run(["sync"], check=True)
                return run([PYTHON, "-c", OURS, str(base), str(folder / out), str(cut), name, durable], watch=True)

            def copied(*, flush: bool) -> Cost:
                shutil.rmtree(folder / "copy", ignore_errors=True)
                (folder / "copy").mkdir()
                subprocess.run(["sync"], check=True)
                command = f"cp {folder}/ours/* {folder}/copy/" + (f" && sync {folder}/copy/*" if flush else "")
                return run(["sh", "-c", command])

            ours("ours", "not")
            pairs = [(ours("ours", "not"), copied(flush=False)) for _ in range(3)]
            flushed = [(ours("ours", "durable"), copied(flush=True)) for _ in range(3)]
            shutil.rmtree(folder / "copy")
            theirs = run(
                [PYTHON, str(HERE / "peer_transformers.py"), str(base), str(folder / "theirs"), str(cut)], watch=True
            )
            same = compare(open_folder(folder / "ours"), open_folder(folder / "theirs"))
            kept = open_folder(folder / "ours").total
            what = f"expert-prune of {name}, {size / 1e9:.2f} GB to {kept / 1e9:.2f} GB"
            quick, copy = median([a for a, _ in pairs]), median([b for _, b in pairs])
            yield row(
                f"{what} / `cp` of the bytes kept", f"{quick:.1f} s", f"{copy:.1f} s", f"{quick / copy:.2f}×", "≤ 1.15"
            )
            slow, synced = median([a for a, _ in flushed]), median([b for _, b in flushed])
            yield row(
                f"{what}, flushed to disk / `cp` and `sync`",
                f"{slow:.1f} s",
                f"{synced:.1f} s",
                f"{slow / synced:.2f}×",
                "≤ 1.15",
            )
            yield row(
                f"{what} / transformers: load, slice, save",
                f"{quick:.1f} s",
                f"{theirs.wall:.1f} s",
                f"{theirs.wall / quick:.1f}× faster",
                f"≥ 5; {len(same.differences)} of {same.tensors} tensors differ",
            )
            peak = max(cost.memory for cost, _ in pairs)
            yield row(
                f"{what}: peak memory / transformers",
                f"{peak >> 20} MiB",
                f"{theirs.memory >> 20} MiB",
                f"{theirs.memory / peak:.0f}× less",
                "≤ 100 MB",
            )
            shutil.rmtree(folder)
            folder.mkdir()


PROFILE = """
import json, statistics, sys, time
from pathlib import Path
import torch
from forgekit.families import FAMILIES, Experts
from forgekit.metrics import METRICS
from forgekit.models.corpus import batches
from forgekit.models.loading import load
from forgekit.models.measuring import headless, profile_experts
base, metric = Path(sys.argv[1]), METRICS[sys.argv[2]]
family = FAMILIES["qwen3_moe"]
model = load(base, family, dtype="bfloat16")
draw = torch.Generator().manual_seed(0)
texts = [torch.randint(0, 32000, (256,), generator=draw).tolist() for _ in range(8)]
tokens = 8 * 256
def bare():
    with torch.no_grad():
        for batch in batches(texts, 4, 0):
            headless(model)(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
def hooked():
    profile_experts(model, family.fact(Experts), metric, batches(texts, 4, 0), experts=64)
def timed(act):
    started = time.perf_counter()
    act()
    return tokens / (time.perf_counter() - started)
bare(), hooked()
pairs = [(timed(hooked), timed(bare)) for _ in range(7 if metric.needs == "router" else 2)]
print(json.dumps([statistics.median(column) for column in zip(*pairs)]))
"""


def profile() -> Iterator[str]:
    from run import row

    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        base = synthetic("qwen3_moe", Path(scratch) / "base")
        for metric in ("activation_count", "reap"):
            ran = subprocess.run(
                [sys.executable, "-c", PROFILE, str(base), metric], capture_output=True, text=True, check=True
            )
            hooked, bare = json.loads(ran.stdout.splitlines()[-1])
            goal = "≥ 0.95" if metric == "activation_count" else "its experts run twice: that is what it measures"
            yield row(
                f"activation profile, {metric}, 2048 tokens / the bare forward",
                f"{hooked:.0f} tokens/s",
                f"{bare:.0f} tokens/s",
                f"{hooked / bare:.2f}× the rate",
                goal,
            )
