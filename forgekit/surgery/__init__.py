"""Surgery: what can be cut out of a checkpoint, as data.

One file per kind of cut. A cut says which bytes of the base every tensor of
the result has, what changes in the config, and how to switch the same parts
off in the base: enough to make it, to prove it, and for a stranger to check it
from the two checkpoints and a few lines of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forgekit.checkpoint.opening import CONFIG, Checkpoint, open_folder, parse_object
from forgekit.checkpoint.patching import set_values
from forgekit.checkpoint.slices import Expected, pieces
from forgekit.checkpoint.writing import copy_companions, write_shards, write_text
from forgekit.errors import CheckpointError
from forgekit.families import Family
from forgekit.models.loading import Loaded
from forgekit.registry import Registry

SIDECAR = "surgery.json"


class Surgery(Protocol):
    """One cut."""

    @property
    def kind(self) -> str:
        """Name of the kind, as it is registered."""

    def origins(self, parent: Checkpoint, family: Family) -> Expected:
        """Where the bytes of every tensor of the result come from.

        Raises:
            CheckpointError: the cut does not fit the base.
        """

    def config(self, parent: Checkpoint, family: Family) -> Mapping[tuple[str, ...], Any]:
        """Values that change in ``config.json``, by path."""

    def switch_off(self, model: Loaded) -> Iterator[Any]:
        """Hooks on the base that take the cut parts out of effect; each is given back to be removed."""

    def record(self) -> dict[str, Any]:
        """The cut as JSON; ``read`` of its kind gives it back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of cut."""

    name: str
    read: Callable[[Mapping[str, Any]], Surgery]


SURGERIES = Registry("surgery", "forgekit.surgery", Kind, hyphens=True)


def perform(
    surgery: Surgery,
    family: Family,
    source: Path,
    out: Path,
    *,
    durable: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the checkpoint that a cut leaves, streaming, with its config, companions and the cut itself as JSON.

    Args:
        durable: flush every shard to disk before it gets its name.

    Returns:
        Bytes of tensors written.

    Raises:
        CheckpointError: the cut does not fit, or the disk is full.
    """
    parent = open_folder(source)
    shards = pieces(parent, surgery.origins(parent, family))
    total = sum(piece.size for shard in shards.values() for piece in shard)
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(min(done, total), total)

    write_shards(out, shards, durable=durable, progress=step)
    text = set_values(parent.config_text, surgery.config(parent, family), f"{source}/{CONFIG}")
    write_text(out / CONFIG, text)
    copy_companions(source, out)
    return total


def write(path: Path, surgery: Surgery, **more: Any) -> None:
    """The cut as a file, with whatever else should be known of it."""
    write_text(
        path, json.dumps({"schema": "forgekit.surgery/1", "kind": surgery.kind, **surgery.record(), **more}) + "\n"
    )


def read(text: str, where: str) -> Surgery:
    """A cut from its file.

    Raises:
        CheckpointError: it is not one.
        UnknownNameError: it is of a kind this version does not know.
    """
    tree = parse_object(text, where)
    try:
        return SURGERIES[str(tree.get("kind"))].read(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the cut cannot be read: {error}", where=where) from error


def pattern(template: str) -> re.Pattern[str]:
    """A regular expression for a tensor name template; groups ``layer`` and ``expert``."""
    text = re.escape(template).replace(r"\{layer\}", r"(?P<layer>\d+)").replace(r"\{expert\}", r"(?P<expert>\d+)")
    return re.compile(text + r"\Z")


def suffix(template: str) -> str:
    """The path of a module under its layer, from the template of its weight."""
    return template.split("{layer}.", 1)[1].removesuffix(".weight")


def inner(config: Mapping[str, Any], path: Sequence[str], where: str) -> Mapping[str, Any]:
    """The object of a config that holds a family's counts.

    Raises:
        CheckpointError: it is not there.
    """
    found: Any = config
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise CheckpointError(f"there is no object {'.'.join(path)}", where=where)
    return found


def whole(settings: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A positive whole number of a config.

    Raises:
        CheckpointError: it is missing, or something else.
    """
    value = settings.get(key, default)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{key} is {value!r}, not a whole number", where=where)
    return value


def numbers(tree: Mapping[str, Any], key: str) -> dict[int, tuple[int, ...]]:
    """Lists of numbers by layer, from JSON."""
    return {int(layer): tuple(map(int, row)) for layer, row in tree[key].items()}


def listed(rows: Mapping[int, Sequence[int]]) -> dict[str, list[int]]:
    """Lists of numbers by layer, as JSON."""
    return {str(layer): list(row) for layer, row in sorted(rows.items())}
