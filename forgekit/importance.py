"""Importance files: what a profile measured, kept so that the cut can be repeated to the byte without it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forgekit.checkpoint.opening import parse_object
from forgekit.checkpoint.writing import write_text
from forgekit.errors import CheckpointError
from forgekit.metrics import Metric

COUNTS = "activation_counts"


def write(
    path: Path, *, metric: Metric, sums: Mapping[int, Mapping[str, Sequence[float]]], about: Mapping[str, Any]
) -> None:
    """Write the sums and scores of every layer, with what they were measured on.

    Args:
        sums: per layer, a sum per expert by name.
        about: model, corpus, their hashes and sizes.
    """
    names = sorted({name for layer in sums.values() for name in layer})
    tree: dict[str, Any] = {"schema": "forgekit.importance/1", **about, "metric": metric.name}
    tree["metric_version"] = metric.version
    tree["tool"] = "forgekit"
    for name in names:
        tree[name] = {str(layer): list(found[name]) for layer, found in sorted(sums.items())}
    tree["scores"] = {
        str(layer): metric.score(found) if metric.score else list(found["weights"])
        for layer, found in sorted(sums.items())
    }
    write_text(path, json.dumps(tree, indent=1) + "\n")


def read(path: Path, *, metric: Metric, layers: Sequence[int], experts: int) -> dict[int, list[float]]:
    """The scores of each layer.

    Published files hold counts and no scores; counts are scores of ``activation_count``.

    Raises:
        CheckpointError: the file is of another metric or model, or lacks a layer or an expert.
    """
    where = str(path)
    try:
        tree = parse_object(path.read_text("utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the importance file cannot be read: {error}", where=where) from error
    named = tree.get("metric") or ("activation_count" if COUNTS in tree else None)
    if named != metric.name:
        raise CheckpointError(
            f"the importance file is of {named!r} and the recipe ranks by {metric.name!r}", where=where
        )
    if tree.get("num_experts") not in (None, experts):
        said = tree["num_experts"]
        raise CheckpointError(f"the importance file is of {said} experts and the model has {experts}", where=where)
    rows = tree.get("scores") if "scores" in tree else tree.get(COUNTS)
    if not isinstance(rows, dict):
        raise CheckpointError("the importance file holds neither scores nor counts", where=where)
    found = {}
    for layer in layers:
        row = rows.get(str(layer))
        if not isinstance(row, list) or len(row) != experts:
            said = "is missing" if row is None else f"has {len(row) if isinstance(row, list) else 'no'} values"
            raise CheckpointError(f"layer {layer} {said}; {experts} are needed", where=f"{where}#/scores/{layer}")
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in row):
            raise CheckpointError(f"layer {layer} holds what is not a number", where=f"{where}#/scores/{layer}")
        found[layer] = [float(value) for value in row]
    return found
