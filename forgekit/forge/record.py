"""What is kept of a stage that has run: enough to go on after a crash, and to be held to it later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forgekit.checkpoint.opening import CONFIG, INDEX, parse_object
from forgekit.checkpoint.writing import COMPANIONS, sync_folder, write_text
from forgekit.digest import Digest, model_hash, sha256_files
from forgekit.errors import CheckpointError, DigestError

DONE = "done.json"
WEIGHTS = (".safetensors", ".gguf", ".onnx", ".onnx.data")
ADAPTER = "adapter.safetensors"
MODEL_FILES = frozenset({CONFIG, INDEX, *COMPANIONS})


@dataclass(frozen=True, kw_only=True)
class Done:
    """One stage that has run.

    Attributes:
        key: hash of everything it depended on.
        folder: what it wrote.
        weights: whether that holds a whole checkpoint.
        files: what it left at hand, by what it is; paths in ``folder``.
        hashes: of every file in ``folder``, by path.
        notes: the stage's own, and the forge's.
    """

    key: str
    folder: Path
    weights: bool
    files: Mapping[str, str]
    hashes: Mapping[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_hash(self) -> Digest | None:
        """Of the checkpoint it wrote; None where it wrote none."""
        return hash_of(self.hashes) if self.weights else None


def hash_of(hashes: Mapping[str, str]) -> Digest:
    """The modelHash of a folder's weight files, by the manifest convention."""
    return model_hash((path, value) for path, value in hashes.items() if is_weight(path))


def is_weight(path: str) -> bool:
    """Whether a file holds weights of the model itself, and not of an adapter that was merged into it."""
    return path.endswith(WEIGHTS) and path.rsplit("/", 1)[-1] != ADAPTER


def is_model_file(path: str) -> bool:
    """Whether a file belongs to the checkpoint, and is not evidence of how it was made."""
    return is_weight(path) or path in MODEL_FILES


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by POSIX path; what begins with a dot is not part of it."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    hashes = sha256_files(paths)
    return {path.relative_to(folder).as_posix(): hashes[path].hex for path in paths if path.name != DONE}


def save(partial: Path, final: Path, done: Done) -> Done:
    """Write the record last, then give the folder its final name."""
    tree = {
        "key": done.key,
        "weights": done.weights,
        "files": dict(done.files),
        "hashes": dict(done.hashes),
        "notes": dict(done.notes),
    }
    write_text(partial / DONE, json.dumps(tree, indent=1) + "\n")
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)
    return load_any(final)


def load_any(folder: Path) -> Done:
    """The record in a folder.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / DONE
    try:
        tree = parse_object(path.read_text("utf-8"), str(path))
        return Done(
            key=tree["key"],
            folder=folder,
            weights=tree["weights"],
            files=tree["files"],
            hashes=tree["hashes"],
            notes=tree["notes"],
        )
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the stage's record cannot be read: {error}", where=str(path)) from error


def load(folder: Path, key: str) -> Done | None:
    """The record of a stage that has run with just this key, if every file is still what it was; else None."""
    try:
        done = load_any(folder)
    except CheckpointError:
        return None
    if done.key != key:
        return None
    try:
        return done if hash_folder(folder) == dict(done.hashes) else None
    except (DigestError, OSError):
        return None
