"""Perplexities are of a stated corpus, and measuring again gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import is_number, objects
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.digest import fault
from forgekit.errors import ForgeError, UnreachableError
from forgekit.findings import Claim, Finding

POINTERS = ("/results/baselinePerplexity", "/results/finalPerplexity")
BAND = 1e-3  # relative: what another order of additions in float32 may change


def claims(alloy: Alloy) -> Found:
    for pointer in POINTERS:
        if is_number(alloy.at(pointer)):
            yield pointer, alloy.at(pointer)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    pinned = evidence.alloy.at("/perplexityCorpus")
    if not isinstance(pinned, Mapping):
        hashes = [row.get("hash") for _, row in objects(evidence.alloy.tree, "/results/integrity/datasets")]
        if not any(isinstance(value, str) and not fault(value) for value in hashes):
            reason = "no corpus is named by content, so no second measurement could be compared with this one"
            return unproven(
                claim, reason, "corpus: record the evaluation corpus and its SHA-256 under integrity.datasets"
            )
        return unchecked(claim, "the alloy does not say which of its corpora the perplexity is of")
    try:
        observed = _measured(claim, evidence, pinned)
    except ForgeError as error:
        return unchecked(claim, f"{error.what} ({error.where})" if error.where else error.what)
    if abs(observed - claim.expected) <= BAND * abs(claim.expected):
        return confirmed(claim, observed, f"measured again on {pinned.get('name') or pinned.get('path')}")
    return refuted(claim, observed, f"measured again, it is {observed:.6g}", "results: measure again and correct it")


def _measured(claim: Claim, evidence: Evidence, pinned: Mapping[str, Any]) -> float:
    """Perplexity of the base, or of the published weights, on the pinned corpus.

    Raises:
        ForgeError: weights, base, corpus or torch are not here.
    """
    from forgekit.checkpoint.opening import open_folder
    from forgekit.families import FAMILIES
    from forgekit.forge.base import locate
    from forgekit.forge.inputs import corpus_file
    from forgekit.forge.looking import measure_perplexity

    root = getattr(evidence.source, "root", None)
    if not isinstance(root, Path):
        raise UnreachableError("the weights are not in a local folder, and are not downloaded for this")
    corpus = corpus_file(evidence.alloy.tree, str(pinned.get("name") or pinned.get("path")), root)
    family = FAMILIES[str(evidence.alloy.at("/source/architecture"))]
    source = evidence.alloy.at("/source")
    base = claim.pointer.endswith("baselinePerplexity")
    folder = locate(source if isinstance(source, dict) else {}, beside=root, offline=True) if base else root
    if open_folder(folder).total > evidence.settings.reforge_limit:
        raise UnreachableError("the model is larger than what is run unasked")
    return float(measure_perplexity(folder, family, corpus)["perplexity"])


CHECK = Check(name="perplexity", tier=2, claims=claims, settle=settle, domain="llm-forge")
