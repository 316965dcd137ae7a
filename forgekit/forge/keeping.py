"""A forge's chain in a store: every checkpoint by content, so that nothing needed to prove the result is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forgekit.alloy.canonical import canonical
from forgekit.alloy.schema import Retention
from forgekit.checkpoint.opening import open_folder
from forgekit.digest import Digest
from forgekit.forge.inputs import FINAL, Turn
from forgekit.forge.record import is_model_file, is_weight

if TYPE_CHECKING:
    from forgekit.forge.finishing import Run
    from forgekit.store.objects import Store

KEPT: Retention = "permanent"  # where a stage does not say


def retention(turn: Turn) -> Retention:
    """How long what a stage made is kept."""
    stated: Retention | None = getattr(turn.step.params, "retention", None)
    return stated or KEPT


def anchors(turns: list[Turn]) -> Iterator[str]:
    """Why a recipe's chain cannot be kept and published; nothing where it can."""
    written = [turn for turn in turns if turn.step.stage and {"weights", "quantised"} & set(turn.step.stage.produces)]
    ends = any(turn.step.type in FINAL for turn in turns)
    if ends and written and retention(written[-1]) == "ephemeral":
        yield f"#{written[-1].step.pointer}: a published chain cannot end in an ephemeral stage"


def keep(store: Store, run: Run, alloy: Path, recipe: Digest | None) -> Digest:
    """Record a finished forge: the base, every stage, and the alloy as the run wrote it.

    The same forge again records the same links. A chain whose recipe ends in publication is named as published, once
    all it rests on is in the store.

    Returns:
        Hash of the last link.

    Raises:
        StoreError: something cannot be stored; no link names it.
        BrokenChainError: what a published chain rests on cannot be had.
    """
    from forgekit.store import audit
    from forgekit.store.chain import append, attest

    chain = alloy.name.removesuffix(".alloy.json")
    files = {name: run.base / name for name in open_folder(run.base).files}
    beside = {path.name: path for path in sorted(run.base.iterdir()) if is_model_file(path.name) and path.is_file()}
    evidence: Mapping[str, Path] = {name: path for name, path in beside.items() if name not in files}
    at = append(store, chain=chain, stage="base", retention=KEPT, files=files, evidence=evidence)
    side: dict[str, Path] = {}
    for index, (turn, done) in enumerate(run.done, 1):
        made = {path: done.folder / path for path in done.hashes}
        own = {path: place for path, place in made.items() if is_weight(path)}
        if done.weights:
            files = own
        else:
            side |= own
        last = index == len(run.done)
        at = append(
            store,
            chain=chain,
            stage=turn.step.type,
            retention=retention(turn),
            files={**files, **side},
            evidence={path: place for path, place in made.items() if path not in own},
            after=at,
            run=alloy.read_bytes() if last else None,
            recipe=recipe,
        )
        if passed := done.notes.get("links"):  # of runtimes, on these bytes
            attest(store, at, canonical({"runtimes": passed}))
    if any(turn.step.type in FINAL for turn, _ in run.done):
        audit.publish(store, chain, at)
    return at
