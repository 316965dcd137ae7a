"""OpenSSF Model Signing bundles: a signature over the path and SHA-256 of every file of a model.

The bundle is a Sigstore bundle (media type v0.3) around a DSSE envelope around an in-toto statement of predicate
``https://model_signing/signature/v1.0``. The library ``model_signing`` signs, and says whether a signature holds; the
files are hashed here, so that a Hub's listing can stand in for weights that are not downloaded.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forgekit.attest import bundle as form
from forgekit.attest import certificates
from forgekit.attest.bundle import Bundle
from forgekit.attest.libraries import library
from forgekit.attest.links import files_of, repository
from forgekit.attest.trust import MODES, Signer, Trust, configured, failure, told, verifying, who
from forgekit.digest import Progress, sha256_files
from forgekit.errors import AlloyError, AttestationError

NAME = "model.sig"
IGNORED = (".cache/huggingface", ".git", ".gitattributes", ".github", ".gitignore")  # the library's, the Hub client's


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A bundle whose signature holds, and who signed, in words."""

    bundle: Bundle
    signer: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that proves nothing, and why."""

    reason: str


def sign(
    root: Path, out: Path, signer: Signer, *, progress: Progress | None = None, now: datetime | None = None
) -> int:
    """Sign every file of a folder, and write the bundle.

    Args:
        out: the bundle; where it is in the folder, it is left out of what is signed.

    Returns:
        How many files are signed.

    Raises:
        MachineError: the library is not installed here.
        AttestationError: there is nothing to sign, or the key or certificate cannot be used.
        SourceError: a file cannot be read, or a link leads out of the folder.
        UnreachableError: Sigstore cannot be reached.
    """
    from forgekit.alloy.files import write_atomically

    ignored = ignoring(root, out)
    files = files_of(root, ignored)
    if not files:
        raise AttestationError("there is no file to sign", where=str(root))
    with configured(signer, now or datetime.now(UTC)) as config, tempfile.TemporaryDirectory() as aside:
        hashes = sha256_files(list(files.values()), progress=progress)
        listed = {path: hashes[real].hex for path, real in files.items()}
        made = Path(aside) / NAME
        with told(str(root)):
            config.set_hashing_config(_Given(_manifest(repository(root) or root.resolve().name, listed, ignored)))
            config.sign(root, made)
        write_atomically(out, made.read_bytes())
    return len(files)


def ignoring(root: Path, bundle: Path | None) -> tuple[str, ...]:
    """Paths that are not part of a model, the bundle among them where it lies in the folder."""
    if bundle is None:
        return IGNORED
    inside = bundle.parent.resolve() / bundle.name
    with contextlib.suppress(ValueError):
        return tuple(sorted({*IGNORED, inside.relative_to(root.resolve()).as_posix()}))
    return IGNORED


def read(data: bytes, trust: Trust) -> Signed | Refusal:
    """What a bundle says, if its signature holds by what is trusted; else why it does not.

    Raises:
        MachineError: the library is not installed here.
        AttestationError: what is trusted cannot be read.
        UnreachableError: Sigstore cannot be reached.
    """
    try:
        held = form.read(data)
        chain = [certificates.read_der(raw) for raw in held.chain]
    except (AttestationError, AlloyError) as error:
        return Refusal(f"the bundle cannot be read: {error.what}")
    wanted = MODES[type(trust)]
    if held.mode != wanted:
        return Refusal(f"the bundle is signed in {held.mode} mode, and is to be verified in {wanted} mode")
    with verifying(trust) as config, _aside(data) as path:
        # given the bundle's own files, the library judges nothing but the signature
        reason = failure(
            lambda: config.set_hashing_config(_Given(_library_manifest(held.statement))).verify(path.parent, path)
        )
    if reason:
        return Refusal(reason)
    signer, reason = who(chain, trust)
    return Refusal(reason) if reason else Signed(bundle=held, signer=signer)


def judged_by_library(root: Path, data: bytes, trust: Trust, ignored: Sequence[str]) -> str:
    """Why a folder is not what a bundle signs, with the library's own hashing; empty where it is.

    For bundles over shards or by other hashes, which need all the bytes.
    """
    how = form.read(data).statement["predicate"]["serialization"]

    def judge() -> None:
        made = library("model_signing.hashing").Config()
        if how["method"] == "shards":
            made.use_shard_serialization(hashing_algorithm=how["hash_type"], shard_size=int(how["shard_size"]))
        else:
            made.use_file_serialization(hashing_algorithm=how["hash_type"])
        made.set_ignored_paths(paths=[Path(name) for name in ignored])
        config.set_hashing_config(made).verify(root, path)

    with verifying(trust) as config, _aside(data) as path:
        return failure(judge)


@contextlib.contextmanager
def _aside(data: bytes) -> Iterator[Path]:
    """The bundle's bytes where nobody changes them between one reading and the next."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        path.write_bytes(data)
        yield path


class _Given:
    """A hashing configuration for the library that has hashed already."""

    def __init__(self, manifest: Any) -> None:
        self.manifest = manifest

    def hash(self, _model: Path, *, files_to_hash: object = None) -> Any:  # noqa: ARG002 - the library passes it
        return self.manifest

    def add_ignored_paths(self, **_: object) -> None:
        """Nothing is left to ignore."""


def _manifest(name: str, files: Mapping[str, str], ignored: Sequence[str]) -> Any:
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": sorted(ignored)}
    rows = [{"name": path, "algorithm": "sha256", "digest": value} for path, value in files.items()]
    return _library_manifest({"subject": [{"name": name}], "predicate": {"serialization": how, "resources": rows}})


def _library_manifest(statement: Mapping[str, Any]) -> Any:
    manifest = library("model_signing.manifest")
    hashing = library("model_signing._hashing.hashing")
    predicate = statement["predicate"]
    how = manifest.SerializationType.from_args(predicate["serialization"])
    items = [
        how.new_item(row["name"], hashing.Digest(row["algorithm"], bytes.fromhex(row["digest"])))
        for row in predicate["resources"]
    ]
    return manifest.Manifest(statement["subject"][0]["name"], items, how)
