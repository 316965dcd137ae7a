"""The last act of a forge: the artifact laid out, and its alloy written when everything else stands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit import __version__
from forgekit import alloy as alloys
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import copy_file, link_or_copy, sync_folder, write_bytes
from forgekit.digest import Digest, is_plain_relative, sha256, sha256_file
from forgekit.forge.environment import code_hash
from forgekit.forge.inputs import Turn, corpora
from forgekit.forge.keeping import retention
from forgekit.forge.record import MODEL_FILES, Done, hash_of, is_model_file, is_weight

SIDECARS = "forge"  # where an artifact keeps what its stages left beside the weights


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An artifact that stands.

    Attributes:
        alloy: path of its alloy.
        model_hash: of its weights.
        stages: the records of its stages.
    """

    alloy: Path
    model_hash: Digest
    stages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a forge hands over when its stages have run.

    Attributes:
        tree: the recipe.
        folder: that the recipe's paths start from.
        base, base_hash: what it began with.
        weights: folder of the last checkpoint.
        done: every stage that ran, in order.
        measured: perplexities, the base's first.
        environment: what it ran on.
        kept: whether a store holds the chain, and the records of the stages say so.
    """

    tree: Mapping[str, Any]
    folder: Path
    base: Path
    base_hash: str
    weights: Path
    done: Sequence[tuple[Turn, Done]]
    measured: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    kept: bool = False


def finish(run: Run, out: Path) -> Finished:
    """Lay the artifact out in ``out``; its alloy is written last.

    Raises:
        CheckpointError: the disk is full.
    """
    for path in sorted(run.weights.iterdir()):
        if path.is_file() and is_model_file(path.name):
            link_or_copy(path, out / path.name)
    final = next((done for _, done in reversed(run.done) if done.weights), None)
    if final is not None:
        hashes = {path: value for path, value in final.hashes.items() if is_weight(path)}
    else:
        hashes = {path: sha256_file(out / path).hex for path in open_folder(run.base).files}
    for _, done in run.done:
        if not done.weights:
            hashes |= {path: value for path, value in done.hashes.items() if is_weight(path)}
    rows, benchmarks = _stages(run, out)
    written = json.dumps(run.environment, indent=2).encode() + b"\n"
    (out / SIDECARS).mkdir(exist_ok=True)
    write_bytes(out / SIDECARS / "environment.json", written)
    _copy_corpora(run, out)
    results = _results(run, out, hashes)
    if benchmarks:
        results["benchmarks"] = benchmarks
    results["stages"] = rows
    results["integrity"] = _integrity(run, out, hashes, sha256(written))
    sync_folder(out)
    path = out / f"{_slug(str(run.tree.get('name') or 'artifact'))}.alloy.json"
    write_bytes(path, alloys.write({**run.tree, "results": results}))
    return Finished(alloy=path, model_hash=hash_of(hashes), stages=tuple(rows))


def _stages(run: Run, out: Path) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """A record per stage that ran, with the evidence it left laid out; and the benchmark rows among them."""
    rows: list[Mapping[str, Any]] = []
    benchmarks: list[Any] = []
    came_from = run.base_hash
    for number, (turn, done) in enumerate(run.done, 1):
        stage = turn.step.stage
        assert stage is not None
        evidence = {}
        for path, value in sorted(done.hashes.items()):
            if done.weights and is_model_file(path):
                continue
            shipped = path.startswith("eval/") or "quantised" in stage.produces
            place = path if shipped else f"{SIDECARS}/{number:02d}-{turn.step.type}/{path}"
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(done.folder / path, out / place)
            evidence[place] = value
        notes = dict(done.notes)
        benchmarks += notes.pop("benchmarks", [])
        gone_to = str(done.model_hash) if done.weights else came_from
        rows.append(
            {
                "stage": int(turn.step.pointer.rsplit("/", 1)[1]),
                "cycle": turn.cycle,
                "type": turn.step.type,
                "inputHash": came_from,
                "outputHash": gone_to,
                "reproducibility": stage.reproducibility,
                "files": [{"filename": path, "sha256": value} for path, value in evidence.items()],
                **_place(turn, came_from, gone_to, kept=run.kept),
                **notes,
            }
        )
        came_from = gone_to
    return rows, benchmarks


def _place(turn: Turn, came_from: str, gone_to: str, *, kept: bool) -> dict[str, str]:
    """What a stage's record says of its place in a chain that is kept."""
    if not kept:
        return {}
    return {"artifactHash": gone_to, "parentArtifactHash": came_from, "retention": retention(turn)}


def _copy_corpora(run: Run, out: Path) -> None:
    """What a result depends on travels with it."""
    for row in corpora(run.tree):
        path = row.get("path")
        if isinstance(path, str) and is_plain_relative(path) and (run.folder / path).is_file():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            copy_file(run.folder / path, out / path)


def _results(run: Run, out: Path, hashes: Mapping[str, str]) -> dict[str, Any]:
    results: dict[str, Any] = {"completedAt": _now()}
    if len(run.measured) > 1:
        first, last = run.measured[0], run.measured[-1]
        results["baselinePerplexity"] = first["perplexity"]
        results["finalPerplexity"] = last["perplexity"]
        results["improvementPct"] = round((1 - last["perplexity"] / first["perplexity"]) * 100, 1)
        results["perplexity"] = list(run.measured)
    if any(path.endswith(".safetensors") and "/" not in path for path in hashes):
        count = sum(placed.tensor.count for placed in open_folder(out).tensors.values())
        results["forgedParamsB"] = round(count / 1e9, 6)
    return results


def _integrity(run: Run, out: Path, hashes: Mapping[str, str], environment_hash: Digest) -> dict[str, Any]:
    return {
        "trustLevel": "self-attested",
        "code": {
            "runner": "forgekit",
            "version": __version__,
            "binaryHash": code_hash(),
            "environment": f"{SIDECARS}/environment.json",
            "environmentHash": str(environment_hash),
        },
        "baseModelHash": run.base_hash,
        "modelHash": str(hash_of(hashes)),
        "fileHashes": [
            {"filename": path, "sha256": value, "size": (out / path).stat().st_size}
            for path, value in sorted(hashes.items())
        ],
        "companionHashes": [
            {"filename": path.name, "sha256": sha256_file(path).hex, "size": path.stat().st_size}
            for path in sorted(out.iterdir())
            if path.name in MODEL_FILES and path.is_file()
        ],
    }


def _now() -> str:
    """The time, to the second, or the one SOURCE_DATE_EPOCH gives."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = time.gmtime(int(epoch)) if epoch and epoch.isdecimal() else time.gmtime()
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", moment)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-") or "artifact"
