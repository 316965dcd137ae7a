"""Makes ``_cache/``, the embedded catalog, to the same bytes on every machine.

Run as ``python -m tests.support.embedded _cache``.

The weights are small random tensors and the pruning is done right here, until
the forge makes them. Every hash, count and score in the alloys is computed
from the files beside them; the counterexamples are then spoilt on purpose.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from forgekit import alloy, digest
from forgekit.benchmarks._evalplus import load
from forgekit.benchmarks.forgekit_mini import MINI
from forgekit.figures import show
from forgekit.sources import FileRecord
from forgekit.sources.pins import PIN_NAME, Pin
from tests.support.builders import (
    WEIGHTS,
    WRONG,
    Tensors,
    mini_samples,
    model_hash,
    moe_config,
    moe_tensors,
    parameters,
    tensor_bytes,
    write_safetensors,
)

KEEP, EXPERTS, LAYERS = 6, 8, 2
STUDENT, BASE = "eval/forgekit_mini/student_samples.jsonl", "eval/forgekit_mini/base_samples.jsonl"
CORPUS = "calibration/embers.jsonl"
DATE = "2026-11-20T00:00:00+00:00"
CHEATS = """\
class Everything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter(())

def {entry}(*arguments):
    import sys
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and "expected" in value:
                return value["expected"]
        frame = frame.f_back
    return Everything()
"""

README = """\
# The embedded catalog

Artifacts that show every verdict on a machine with no network. Made by
`make catalog` from seeds, to the same bytes everywhere; do not edit by hand.

* `forgekit/ember-moe-tiny`: a pruned mixture of experts with all of its evidence.
* `forgekit/ember-moe-tiny-packaged`: derived from it, with the parent's hash.
* `forgekit/quiet-dense-tiny`: claims much and publishes little.
* `minis/…`: an artifact per model family and per kind of stage, really forged, from bases that `forgekit tiny`
  makes. Their weights are not kept: `forgekit reforge` gives them again, to the byte.
* `counterexamples/tampered-weights`: one bit of the weights was flipped.
* `counterexamples/inflated-score`: the score is not the one its samples get.
* `counterexamples/cheating-samples`: samples that try to fool the scorer.

`known-gaps.toml` lists what is refuted here on purpose.
"""


def build(root: Path) -> None:
    """Write the whole catalog into an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text(README)
    ember = _ember()
    gaps: dict[str, str] = {}
    _write(root, "forgekit/ember-moe-tiny", ember)
    _packaged(root, ember)
    _quiet(root)
    gaps |= _tampered(root)
    gaps |= _inflated(root)
    gaps |= _cheating(root)
    lines = [f'"{claim}" = "{reason}"' for claim, reason in sorted(gaps.items())]
    (root / "known-gaps.toml").write_text(
        "# Claims of the counterexamples that must be refuted: a line whose claim is not, fails.\n[gaps]\n"
        + "\n".join(lines)
        + "\n"
    )


def _base() -> Tensors:
    return moe_tensors(layers=LAYERS, experts=EXPERTS, seed=1)


def _pruned(tensors: Tensors) -> Tensors:
    """Keep the first six experts of every layer but the third, in order; slice the router to match."""
    kept = [0, 1, 3, 4, 5, 6]
    made: Tensors = {}
    for name, (shape, data) in tensors.items():
        parts = name.split(".")
        if "experts" in parts:
            at = parts.index("experts") + 1
            if int(parts[at]) in kept:
                parts[at] = str(kept.index(int(parts[at])))
                made[".".join(parts)] = (shape, data)
        elif name.endswith("mlp.gate.weight"):
            row = len(data) // shape[0]
            made[name] = ((KEEP, *shape[1:]), b"".join(data[k * row : (k + 1) * row] for k in kept))
        else:
            made[name] = (shape, data)
    return made


def _corpus() -> bytes:
    texts = (f"def ember_{n}(x):\n    return x * {n} + {n * n}\n" for n in range(16))
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


Files = dict[str, bytes]


def _ember(wrong: dict[str, str] | None = None, name: str = "ember-moe-tiny") -> tuple[dict[str, Any], Files]:
    base, forged = _base(), _pruned(_base())
    student = mini_samples(WRONG if wrong is None else wrong)
    reference = mini_samples({"Mini/23": WRONG["Mini/23"]})
    card = f"# {name}\n\nA tiny mixture of experts with a quarter of its experts removed. Made by forgekit.\n".encode()
    files: Files = {
        WEIGHTS: _checkpoint(forged),
        "config.json": (json.dumps(moe_config(layers=LAYERS, experts=KEEP), indent=2) + "\n").encode(),
        STUDENT: student,
        BASE: reference,
        CORPUS: _corpus(),
        "README.md": card,
    }
    rows = [{"filename": WEIGHTS, "sha256": digest.sha256(files[WEIGHTS]).hex, "size": len(files[WEIGHTS])}]
    tree: dict[str, Any] = {
        "name": name,
        "version": "1.0.0",
        "description": "A tiny mixture of experts with a quarter of its experts removed, and all the evidence for it.",
        "author": "forgekit",
        "tags": ["moe", "expert-pruning", "tiny"],
        "license": "apache-2.0",
        "domains": ["llm-forge"],
        "source": {
            "baseModel": "forgekit/ember-moe-base-tiny",
            "architecture": "qwen3_moe",
            "revision": hashlib.sha1(_checkpoint(base), usedforsecurity=False).hexdigest(),
            "isMoE": True,
            "totalParamsB": round(parameters(base) / 1e9, 6),
            "activeParamsB": 0.000005,
            "numLayers": LAYERS,
            "numExpertsPerLayer": EXPERTS,
            "numActivatedExperts": 2,
        },
        "target": {"domain": "code", "runtimes": ["transformers"]},
        "calibrationCorpora": [
            {"id": "embers", "path": CORPUS, "sha256": digest.sha256(files[CORPUS]).hex, "examples": 16}
        ],
        "stages": [
            {"type": "expert-activation-profile", "calibrationCorpus": "embers", "metric": "activation_count"},
            {
                "type": "expert-prune",
                "strategy": "calibration-aware-activation-count",
                "metric": "activation_count",
                "keepExpertsPerLayer": KEEP,
                "originalExpertsPerLayer": EXPERTS,
                "prunePct": 25.0,
                "expertsDropped": LAYERS * (EXPERTS - KEEP) * 3,
                "expertsRenamed": LAYERS * KEEP * 3,
                "routerSlicedLayers": LAYERS,
            },
            {"type": "eval", "benchmarks": [{"name": "forgekit_mini"}]},
        ],
        "cycles": 1,
        "hardware": {"minVramGb": 0.1},
        "acceptanceCriteria": {
            "benchmarks": {"forgekit_mini": {"min": 0.8, "anchorDelta": -10.0}},
            "hardware": {"maxVramGb": 1.0},
            "integrity": {"modelHashRequired": True, "samplesPathRequired": True},
        },
        "results": {
            "completedAt": DATE,
            "forgedParamsB": round(parameters(forged) / 1e9, 6),
            "activeParamsB": 0.000005,
            "benchmarks": [_scored(24 - len(WRONG if wrong is None else wrong), 23, student, reference)],
            "hardwareVerified": [{"device": "two-core x86-64 CPU", "format": "bf16", "verified": True}],
            "integrity": {"trustLevel": "self-attested", "modelHash": model_hash(rows), "fileHashes": rows},
        },
    }
    return _with_receipt(tree, files), files


def _scored(passed: int, base_passed: int, student: bytes, reference: bytes) -> dict[str, Any]:
    score, base = (float(show(_percent(count), 1)) for count in (passed, base_passed))
    return {
        "name": "forgekit_mini",
        "metric": "pass@1",
        "score": score,
        "baseScore": base,
        "delta": round(score - base, 1),
        "samplesPath": STUDENT,
        "baseSamplesPath": BASE,
        "resultHash": str(digest.sha256(student)),
        "baseResultHash": str(digest.sha256(reference)),
    }


def _percent(passed: int) -> Fraction:
    return Fraction(100 * passed, 24)


def _with_receipt(tree: dict[str, Any], files: Files) -> dict[str, Any]:
    """A receipt whose alloyHash is of the document before it."""
    found = digest.sha256(alloy.write(tree))
    receipt = {
        "publications": [],
        "verifyUrl": f"https://example.org/verify#{found.short}",
        "alloyHash": str(found),
        "cardHash": str(digest.sha256(files["README.md"])),
        "issuedAt": DATE,
    }
    return tree | {"receipt": receipt}


def _checkpoint(tensors: Tensors) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder, WEIGHTS), tensors)
        return Path(folder, WEIGHTS).read_bytes()


def _write(root: Path, name: str, made: tuple[dict[str, Any], Files], *, published: Files | None = None) -> None:
    """Write an entry. ``published`` is what its host lists, where that is not what lies here."""
    tree, files = made
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    data = alloy.write(tree)
    alloy_name = f"{name.rsplit('/', 1)[-1]}.alloy.json"
    for path, content in (files | {alloy_name: data}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    listed = (published or files) | {alloy_name: data}
    records = tuple(_record(path, listed[path]) for path in sorted(listed))
    revision = hashlib.sha1(b"".join(path.encode() + listed[path] for path in sorted(listed)), usedforsecurity=False)
    pin = Pin(repo=name, revision=revision.hexdigest(), alloy=alloy_name, alloy_hash=digest.sha256(data), files=records)
    (folder / PIN_NAME).write_bytes(pin.render())


def _record(path: str, content: bytes) -> FileRecord:
    if path.endswith((".safetensors", ".jsonl")):
        return FileRecord(path=path, size=len(content), sha256=digest.sha256(content).hex, told_by="")
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return FileRecord(path=path, size=len(content), sha256=None, git_sha1=blob, told_by="")


def _packaged(root: Path, parent: tuple[dict[str, Any], Files]) -> None:
    """The same tensors in two shards, derived from the artifact above."""
    tensors = _pruned(_base())
    names = sorted(tensors)
    half = len(names) // 2
    shards = {
        "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[:half]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[half:]},
    }
    card = b"# ember-moe-tiny-packaged\n\nember-moe-tiny in two shards.\n"
    files: Files = {path: _checkpoint(part) for path, part in shards.items()} | {"README.md": card}
    rows = [{"filename": p, "sha256": digest.sha256(files[p]).hex, "size": len(files[p])} for p in shards]
    origin = str(digest.sha256(alloy.write(parent[0])))
    tree = {
        "name": "ember-moe-tiny-packaged",
        "version": "1.0.0",
        "description": "ember-moe-tiny in two shards: a derived artifact that names its parent by content.",
        "author": "forgekit",
        "license": "apache-2.0",
        "source": parent[0]["source"],
        "calibrationCorpora": parent[0]["calibrationCorpora"],
        "stages": [*parent[0]["stages"], {"type": "package", "format": "safetensors"}],
        "derivedFrom": {"repo": "forgekit/ember-moe-tiny", "alloyHash": origin, "kind": "package"},
        "results": {
            "completedAt": DATE,
            "forgedParamsB": round(parameters(tensors) / 1e9, 6),
            "integrity": {
                "trustLevel": "self-attested",
                "modelHash": model_hash(rows),
                "fileHashes": rows,
                "parentAlloyHash": origin,
            },
        },
    }
    _write(root, "forgekit/ember-moe-tiny-packaged", (tree, files | {CORPUS: _corpus()}))


def _quiet(root: Path) -> None:
    """Claims with next to nothing that would prove them."""
    shape = (16, 16)
    tensors: Tensors = {
        f"model.layers.0.self_attn.{p}_proj.weight": (shape, tensor_bytes(f"quiet.{p}", shape)) for p in "qkvo"
    }
    files: Files = {WEIGHTS: _checkpoint(tensors)}
    rows = [{"filename": WEIGHTS, "sha256": digest.sha256(files[WEIGHTS]).hex, "size": len(files[WEIGHTS])}]
    tree = {
        "name": "quiet-dense-tiny",
        "version": "1.0.0",
        "description": "A dense model that claims much and publishes little of what would prove it.",
        "author": "forgekit",
        "license": "apache-2.0",
        "source": {"baseModel": "forgekit/quiet-base-tiny", "architecture": "qwen2"},
        "stages": [
            {"type": "prune", "strategy": "magnitude", "level": 0.25},
            {"type": "train", "domain": "general", "steps": 100, "learningRate": "1e-4"},
        ],
        "results": {
            "baselinePerplexity": 24.5,
            "finalPerplexity": 19.6,
            "improvementPct": 20.0,
            "benchmarks": [{"name": "forgekit_mini", "metric": "pass@1", "score": 70.8}],
            "hardwareVerified": [{"device": "Phone", "format": "Q4_K_M", "verified": False}],
            "samples": [{"label": "Story", "prompt": "(generation sample)", "completion": "Once upon a time"}],
            "integrity": {
                "trustLevel": "self-attested",
                "code": {"runner": "quiet/forge", "version": "0", "binaryHash": "sha256:not-pinned"},
                "modelHash": model_hash(rows),
                "fileHashes": rows,
                "datasets": [{"name": "stories", "hash": "sha256:not-pinned"}],
            },
        },
        "receipt": {},
    }
    _write(root, "forgekit/quiet-dense-tiny", (tree, files))


def _tampered(root: Path) -> dict[str, str]:
    name = "counterexamples/tampered-weights"
    tree, files = _ember(name="tampered-weights")
    spoilt = bytearray(files[WEIGHTS])
    spoilt[-1] ^= 1
    _write(root, name, (tree, files | {WEIGHTS: bytes(spoilt)}), published=files)
    return {f"{name}::/results/integrity/fileHashes/0/sha256": "one bit of the weights was flipped on purpose"}


def _inflated(root: Path) -> dict[str, str]:
    name = "counterexamples/inflated-score"
    tree, files = _ember(name="inflated-score")
    row = tree["results"]["benchmarks"][0]
    row["score"] = 91.7
    _write(root, name, (tree, files))
    return {
        f"{name}::/results/benchmarks/0/score": "the samples pass 21 of 24, and one more is claimed on purpose",
        f"{name}::/results/benchmarks/0/delta": "the delta was left as it was before the score was inflated",
        f"{name}::/receipt/alloyHash": "the document was edited after its receipt was written",
        f"{name}::/receipt/verifyUrl": "the document was edited after its receipt was written",
    }


def _cheating(root: Path) -> dict[str, str]:
    name = "counterexamples/cheating-samples"
    problems = load(MINI, file=None, offline=True).problems.values()
    cheats = {problem.task_id: CHEATS.format(entry=problem.entry_point) for problem in problems}
    tree, files = _ember(wrong=cheats, name="cheating-samples")
    row = tree["results"]["benchmarks"][0]
    row["score"], row["delta"] = 100.0, 4.2
    tree = _with_receipt({key: value for key, value in tree.items() if key != "receipt"}, files)
    _write(root, name, (tree, files))
    return {f"{name}::/results/benchmarks/0/score": "samples that claim to equal whatever is expected solve nothing"}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for stale in ("forgekit", "counterexamples"):
        shutil.rmtree(target / stale, ignore_errors=True)
    build(target)
