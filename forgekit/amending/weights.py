"""Hashes of the weight files that an artifact publishes, from its listing where that has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forgekit import digest
from forgekit.errors import AbsentError
from forgekit.forge.record import is_weight
from forgekit.sources import Source

WEIGHTS = (".safetensors", ".gguf")


def rows(source: Source, endings: Sequence[str] = WEIGHTS) -> list[dict[str, Any]]:
    """``fileHashes`` of the published weights: LFS metadata where the listing has it, else the bytes.

    Raises:
        AbsentError: it publishes no weights of these kinds.
        SourceError: a file that must be hashed cannot be had.
    """
    found = []
    for path, record in sorted(source.listing().items()):
        if path.endswith(tuple(endings)) and is_weight(path):
            sha256 = record.sha256 or digest.sha256_file(source.fetch(path)).hex
            found.append({"filename": path, "sha256": sha256, "size": record.size})
    if not found:
        kinds = " or ".join(f"*{ending}" for ending in endings)
        raise AbsentError(f"no weights are published: there is no {kinds}", where=source.where(""))
    return found


def model_hash(files: Sequence[dict[str, Any]]) -> str:
    """ModelHash of rows of ``fileHashes``, by the manifest convention."""
    return str(digest.model_hash((row["filename"], row["sha256"]) for row in files))
