"""modelHash is the manifest hash of the weight files' hashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forgekit import digest
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unproven
from forgekit.digest import Digest
from forgekit.errors import DigestError, SourceError
from forgekit.findings import Claim, Finding

POINTER = "/results/integrity/modelHash"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/results"), dict):
        yield POINTER, alloy.at(POINTER)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if claim.expected is None:
        reason = "results are published without a hash of the weights they belong to"
        return unproven(claim, reason, "weights: record modelHash and fileHashes")
    if malformed := judge_hash_text(claim, "weights"):
        return malformed
    files = list(_listed(evidence.alloy))
    told_by = "the alloy's own fileHashes"
    if not files:
        files, told_by = list(_published(evidence)), "the files as published"
    if not files:
        return unproven(claim, "no file hashes are recorded to compute it from", "weights: record fileHashes")
    try:
        manifest = digest.model_hash(files)
    except DigestError as error:
        return refuted(claim, None, f"it cannot be computed: {error.what}", "weights: correct fileHashes")
    wanted = Digest.parse(claim.expected)
    if wanted == manifest:
        return confirmed(claim, str(manifest), f"from {told_by}", convention="manifest", files=len(files))
    reason = f"the manifest of {told_by} hashes to {manifest.short}"
    if _is_concat(wanted, files, evidence):
        reason = f"this is the superseded concat hash, taken over the files' bytes; {reason}"
    return refuted(
        claim, str(manifest), reason, "weights: migrate modelHash to the manifest convention", files=len(files)
    )


def _listed(alloy: Alloy) -> Iterator[tuple[str, str]]:
    for _, row in objects(alloy.tree, "/results/integrity/fileHashes"):
        if isinstance(row.get("filename"), str) and isinstance(row.get("sha256"), str):
            yield row["filename"], row["sha256"]


def _published(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for path, record in evidence.source.listing().items():
        if path.endswith((".safetensors", ".gguf")):
            yield path, record.sha256 or evidence.sha256(path).hex


def _is_concat(wanted: Digest, files: list[tuple[str, str]], evidence: Evidence) -> bool:
    """Whether a hash is of the files' bytes one after the other; for one file that is the file's own."""
    if len(files) == 1:
        return wanted.hex == files[0][1].removeprefix("sha256:")
    try:
        paths: list[Path] = [evidence.file(name) for name, _ in files]
        return digest.concat_hash(paths) == wanted
    except SourceError:
        return False


CHECK = Check(name="model-hash", tier=3, claims=claims, settle=settle)
