"""Run a recipe again and grade what comes out against what was published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from forgekit.alloy import Alloy
from forgekit.checkpoint.difference import compare
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import copy_file
from forgekit.errors import ForgeError, SourceError
from forgekit.families import FAMILIES
from forgekit.forge.environment import environment
from forgekit.forge.executor import Forged, Settings, forge
from forgekit.forge.inputs import corpora
from forgekit.forge.lineage import KEEP_MAPS, FolderCheckpointSource, prove_structure, stages_of
from forgekit.forge.record import ADAPTER, hash_folder, hash_of
from forgekit.sources import Source

Grade = Literal["bitwise", "tensor-equal", "within-band", "behaviour-equal", "diverged", "inconclusive"]
OVERLAP = 0.9  # least share of what two measurements of one corpus chose that they must agree on
DRIFT = 0.1  # largest difference of two trainings' adapters, against the size of the published one
BEHAVIOUR = 0.05  # largest root mean square difference of logits, against the published model's


@dataclass(frozen=True, kw_only=True)
class Reforged:
    """How a re-forge compares with what was published.

    Attributes:
        grade: ``bitwise``: the same modelHash. ``tensor-equal``: the same tensors in other files.
            ``within-band``: a stage that is not exact differs by no more than its class allows, and everything after
            it follows from that. ``behaviour-equal``: other tensors, nearly the same logits, which decides nothing.
            ``diverged``: none of these. ``inconclusive``: what would decide is not here.
        stage: the first stage whose output differs, as ``number (type)``.
        tensor: the first tensor that differs, and where.
        same_machine: whether versions, processor, device and threads are the published ones.
    """

    grade: Grade
    reason: str
    published: str
    observed: str
    stage: str = ""
    tensor: str = ""
    same_machine: bool | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the recipe gives the published model; None where that was not decided."""
        if self.grade in ("inconclusive", "behaviour-equal"):  # alike is not the same
            return None
        return self.grade != "diverged"


def again(
    alloy: Alloy, artifact: Source, *, beside: Path, folder: Path, settings: Settings | None = None
) -> tuple[Reforged, Forged]:
    """Forge again with the published seed and threads, and compare.

    Args:
        beside: the folder the recipe's paths start from, where its corpora are.
        folder: where to forge; it may hold an unfinished attempt.

    Raises:
        ForgeError: the recipe cannot be run here.
    """
    recorded = published_environment(artifact)
    asked = settings or Settings(offline=True)
    threads, seed = recorded.get("threads"), recorded.get("seed")
    asked = replace(
        asked,
        threads=threads if isinstance(threads, int) else asked.threads,
        seed=seed if isinstance(seed, int) else asked.seed,
        validate=False,  # what an engine says of the weights is a claim of its own
    )
    made = forge(alloy, folder / "again", asked, beside=beside)
    here = environment(threads=asked.threads, device=asked.device) | {"seed": asked.seed}
    return grade(alloy, artifact, made, same_machine=here == recorded if recorded else None), made


def fetch_inputs(alloy: Alloy, artifact: Source, scratch: Path) -> Path:
    """The folder a recipe's paths start from: the artifact's own, or one with its corpora fetched into it.

    Raises:
        SourceError: a corpus is missing or cannot be fetched.
    """
    root = getattr(artifact, "root", None)
    if isinstance(root, Path):
        return root
    folder = scratch / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for row in corpora(alloy.tree):
        path = row.get("path")
        if isinstance(path, str):
            local = artifact.fetch(path)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            copy_file(local, folder / path)
    return folder


def grade(  # noqa: PLR0911 - one per grade and reason
    alloy: Alloy, artifact: Source, made: Forged, *, same_machine: bool | None
) -> Reforged:
    """Compare a finished re-forge with what was published."""
    published = str(alloy.at("/results/integrity/modelHash"))
    common: dict[str, Any] = {
        "published": published,
        "observed": str(made.model_hash),
        "same_machine": same_machine,
    }
    if published == str(made.model_hash):
        return Reforged(grade="bitwise", reason="the recipe gives the published bytes", **common)
    rows = list(stages_of(alloy.tree))
    changed = _different(rows, made.stages)
    common["stage"] = f"{changed[0][1]['stage']} ({changed[0][1]['type']})" if changed else ""
    difference = _weights(artifact, made)
    if difference == "" and _published_hash(artifact) == published:
        return Reforged(grade="tensor-equal", reason="the same tensors, in other files", **common)
    common["tensor"] = difference or ""
    if not rows:
        reason = "the published alloy records no stages, so no stage can be blamed"
        return Reforged(grade="diverged" if difference else "inconclusive", reason=reason, **common)
    if not changed:
        reason = "every stage gives what is recorded of it, and together they do not give the published modelHash"
        return Reforged(grade="diverged", reason=reason, **common)
    kind = changed[0][1].get("reproducibility")  # as this forge declares it: the published word is the publisher's
    if kind == "exact":
        return Reforged(grade="diverged", reason=f"stage {common['stage']} is exact and gave other bytes", **common)
    if kind == "exact-here" and same_machine:
        reason = f"stage {common['stage']} is exact on this machine, and gave other bytes"
        return Reforged(grade="diverged", reason=reason, **common)
    bands = [_band(old, artifact, made) for old, _ in changed if _evidence(old)]
    outside = next((said for inside, said in filter(None, bands) if not inside), "")
    if not outside and bands and None not in bands:
        verdict, said = _follows(alloy, artifact, made)
        return Reforged(grade=verdict, reason="; ".join([*(said for _, said in filter(None, bands)), said]), **common)
    said = outside or f"what stage {common['stage']} left is not here to compare"
    alike = _behaviour(artifact, made, alloy)
    if alike is not None and alike <= BEHAVIOUR:
        return Reforged(grade="behaviour-equal", reason=f"{said}; logits differ by {alike:.2%}", **common)
    if not outside and alike is None:
        return Reforged(grade="inconclusive", reason=said, **common)
    said += f"; logits differ by {alike:.2%}" if alike is not None else ""
    return Reforged(grade="diverged", reason=said, **common)


def _follows(alloy: Alloy, artifact: Source, made: Forged) -> tuple[Grade, str]:
    """Whether the published weights follow from the evidence that was within its band.

    Without that, whoever trains on another machine could publish any weights beside an honest adapter.
    """
    family = FAMILIES[str(alloy.at("/source/architecture"))]
    try:
        found = prove_structure(FolderCheckpointSource(made.base), artifact, family, alloy.tree)
    except ForgeError as error:
        return "inconclusive", f"whether the published weights follow from it is not known: {error.what}"
    if found.differences:
        return "diverged", f"the published weights do not follow from it: {found.differences[0]}"
    if found.low_rank:
        return "inconclusive", "the published weights hold changes whose adapter is not here"
    return "within-band", "the published weights follow from it"


def published_environment(artifact: Source) -> dict[str, Any]:
    """What the artifact says it was forged on; empty where it does not say."""
    try:
        tree = json.loads(artifact.fetch("forge/environment.json").read_text("utf-8"))
    except (SourceError, OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _different(
    published: list[Mapping[str, Any]], made: tuple[Mapping[str, Any], ...]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The stages that gave something else: other weights, or another measurement that later stages used."""
    return [
        (old, new)
        for old, new in zip(published, made, strict=False)
        if old.get("outputHash") != new.get("outputHash") or _hashes(old) != _hashes(new)
    ]


def _evidence(row: Mapping[str, Any]) -> bool:
    """Whether a stage left something that can be compared by a band."""
    names = [path.rsplit("/", 1)[-1] for path in _hashes(row)]
    return any(name.startswith("importance.") or name in {ADAPTER, *KEEP_MAPS} for name in names)


def _hashes(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(entry.get("filename")): entry.get("sha256")
        for entry in row.get("files") or ()
        if isinstance(entry, Mapping) and not str(entry.get("filename")).startswith("eval/")
    }


def _published_hash(artifact: Source) -> str | None:
    """The modelHash of the published files themselves; None where they are not local."""
    root = getattr(artifact, "root", None)
    return str(hash_of(hash_folder(root))) if isinstance(root, Path) else None


def _weights(artifact: Source, made: Forged) -> str | None:
    """The first difference of the weights, empty where there is none; None where the published ones are not local."""
    root = getattr(artifact, "root", None)
    if not isinstance(root, Path):
        return None
    try:
        found = compare(open_folder(root), open_folder(made.folder))
    except ForgeError:
        return None
    return str(found.differences[0]) if found.differences else ""


def _band(row: Mapping[str, Any], artifact: Source, made: Forged) -> tuple[bool, str] | None:
    """Whether a stage that is not exact differs by no more than it may; None where its evidence is not here."""
    for path in sorted(_hashes(row)):
        name = path.rsplit("/", 1)[-1]
        try:
            if name.startswith("importance."):
                return _profiles(artifact.fetch(path), made.folder / path, made)
            if name in KEEP_MAPS:
                return _cuts(artifact.fetch(path), made.folder / path)
            if name == ADAPTER:
                size = artifact.listing()[path].size or 0
                return _adapters(artifact.read_range(path, 0, size), made.folder / path)
        except (SourceError, OSError, KeyError, ValueError):
            return None
    return None


def _profiles(published: Path, observed: Path, made: Forged) -> tuple[bool, str]:
    """Profiles agree where the experts they would keep do."""
    from forgekit.metrics import select

    old, new = (json.loads(path.read_text("utf-8"))["scores"] for path in (published, observed))
    keep = next((int(row["expertsKeptPerLayer"]) for row in made.stages if "expertsKeptPerLayer" in row), 0)
    shares = []
    for layer, scores in old.items():
        count = keep or max(len(scores) // 2, 1)
        shares.append(len(set(select(scores, count)) & set(select(new[layer], count))) / count)
    least = min(shares)
    said = f"the two profiles agree on at least {least:.1%} of the experts to keep in every layer"
    return least >= OVERLAP, said


def _cuts(published: Path, observed: Path) -> tuple[bool, str]:
    """Cuts agree where what they take from each layer, or leave of it, does."""

    def parts(path: Path) -> set[tuple[str, int]]:
        tree = json.loads(path.read_text("utf-8"))
        rows = tree.get("gone", tree.get("kept"))
        rows = rows if isinstance(rows, dict) else {"": rows}
        return {(layer, int(number)) for layer, row in rows.items() for number in row}

    old, new = parts(published), parts(observed)
    share = len(old & new) / max(len(old | new), 1)
    return share >= OVERLAP, f"the two cuts agree on {share:.1%} of what they chose"


def _adapters(published: bytes, observed: Path) -> tuple[bool, str]:
    """Trainings agree where their adapters' products do."""
    import numpy as np

    from forgekit.models.training import SETTINGS, parse_adapter

    about = json.loads((observed.parent / SETTINGS).read_text("utf-8"))
    old, _ = parse_adapter(published, about, "published")
    new, _ = parse_adapter(observed.read_bytes(), about, str(observed))
    if set(old) != set(new):
        return False, "the two trainings adapted different modules"
    apart = sum(float(np.square(old[n][1] @ old[n][0] - new[n][1] @ new[n][0]).sum()) for n in old)
    size = sum(float(np.square(old[n][1] @ old[n][0]).sum()) for n in old)
    drift = (apart / size) ** 0.5 if size else float(apart > 0)
    return drift <= DRIFT, f"the two trainings' updates differ by {drift:.2%} of the published one's size"


def _behaviour(artifact: Source, made: Forged, alloy: Alloy) -> float | None:
    """Root mean square difference of probe logits, against the published model's; None where it cannot be run."""
    from forgekit.forge.proof import logits
    from forgekit.models.loading import load

    root = getattr(artifact, "root", None)
    if not isinstance(root, Path):
        return None
    try:
        family = FAMILIES[str(alloy.at("/source/architecture"))]
        old, new = (logits(load(folder, family)) for folder in (root, made.folder))
    except (ForgeError, RuntimeError):
        return None
    if old.shape != new.shape:
        return None
    return float((old - new).pow(2).mean().sqrt() / old.pow(2).mean().sqrt())
