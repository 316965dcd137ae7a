"""Tiny checkpoints and recipes to forge, kept for the whole test run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from forgekit import alloy
from forgekit.checkpoint.opening import Checkpoint, open_folder
from forgekit.checkpoint.writing import Made, Piece, write_shards
from forgekit.families import FAMILIES, AttentionHeads, Experts, Family, FeedForward
from forgekit.forge.base import locate
from forgekit.forge.executor import Forged, Settings, forge
from forgekit.stages import STAGES, Outcome, Work
from tests.support import forged

MIXTURES = sorted(name for name, family in FAMILIES.items() if family.fact(Experts))
HEADED = sorted(name for name, family in FAMILIES.items() if family.fact(AttentionHeads))
DENSE = sorted(name for name, family in FAMILIES.items() if family.fact(FeedForward))


@cache
def base(name: str) -> Path:
    """A family's tiny checkpoint."""
    return locate({"baseModel": f"tiny:{name}"}, beside=Path())


def copy_of(name: str, folder: Path) -> Path:
    """A copy of it that may be spoilt."""
    target = folder / f"{name}-copy"
    shutil.copytree(base(name), target)
    return target


def run_stage(kind: str, name: str, out: Path, *, source: Path | None = None, **params: Any) -> Outcome:
    """Run one stage on a family's tiny checkpoint."""
    stage, family = STAGES[kind], FAMILIES[name]
    out.mkdir(parents=True, exist_ok=True)
    at_hand = {key: params.pop(key) for key in ("importance",) if key in params}
    fact = next((found for need in stage.needs if (found := family.fact(need))), None)
    corpus = out.parent / "words.jsonl"
    corpus.write_bytes(forged.corpus(8))
    assert stage.run is not None
    return stage.run(
        Work(
            params=stage.params.parse({"type": kind, **params}),
            family=family,
            fact=fact,
            source=source or base(name),
            out=out,
            at_hand=at_hand,
            recipe={"name": "test", "source": {"baseModel": f"tiny:{name}"}},
            corpus=lambda _name: corpus,
            model=lambda _name: base(name),
        )
    )


def rewrite(folder: Path, change: Callable[[dict[str, Piece]], None]) -> Path:
    """Write a checkpoint again with its tensors changed, and nothing else."""
    source = open_folder(folder)
    pieces = {name: piece(source, name) for name in source.tensors}
    change(pieces)
    made = folder.with_name(folder.name + "-changed")
    made.mkdir()
    write_shards(made, {"model": list(pieces.values())}, durable=False)
    for path in folder.iterdir():
        if not path.name.startswith("model") and path.is_file():
            shutil.copyfile(path, made / path.name)
    return made


def piece(source: Checkpoint, name: str, *, as_name: str | None = None, data: bytes | None = None) -> Piece:
    """A tensor in memory."""
    tensor = source[name].tensor
    content = source.read(name) if data is None else data
    return Piece(as_name or name, tensor.dtype, tensor.shape, (Made(lambda: content, len(content)),))


def content(made: Piece) -> bytes:
    """The bytes of a piece that is in memory."""
    return b"".join(bytes(part.make()) for part in made.parts if isinstance(part, Made))


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))


def family(name: str) -> Family:
    return FAMILIES[name]


def a_recipe(name: str, stages: list[dict[str, Any]], folder: Path, **more: Any) -> Path:
    """A recipe on a family's tiny checkpoint, with its corpus beside it."""
    forged.write_recipe("mixtral-aimer", folder)
    tree = forged.recipe("mixtral-aimer")
    tree["source"] = {"baseModel": f"tiny:{name}", "architecture": name}
    tree |= {"name": "made", "stages": stages} | more
    path = folder / "recipe.json"
    path.write_bytes(alloy.write(tree))
    return path


def forge_it(path: Path, out: Path, **settings: Any) -> Forged:
    return forge(alloy.read_file(path), out, Settings(offline=True, **settings))


def look_alike(name: str, folder: Path, without: tuple[str, ...] = (), **config: Any) -> Path:
    """A family's tiny checkpoint under another config, its weights linked and not copied.

    Args:
        without: config keys to leave out, after ``config`` was put in; in the text config where there is one.
    """
    target = folder / f"{name}-like"
    target.mkdir(parents=True)
    for path in base(name).iterdir():
        if path.is_file() and path.name != "config.json":
            (target / path.name).symlink_to(path.resolve())
    tree = json.loads((base(name) / "config.json").read_text())
    inner = tree.get("text_config", tree)
    inner |= config
    for key in without:
        inner.pop(key, None)
    (target / "config.json").write_text(json.dumps(tree, indent=2))
    return target
