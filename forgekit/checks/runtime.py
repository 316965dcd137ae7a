"""The artifact loads and generates in each runtime it declares."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.errors import AbsentError, SourceError
from forgekit.findings import Claim, Finding, Verdict
from forgekit.probing.cells import Probed, choose, none_shipped
from forgekit.runtimes import RUNTIMES, Runtime, find_runtime


def claims(alloy: Alloy) -> Found:
    declared = alloy.at("/target/runtimes")
    if isinstance(declared, list):
        for index, name in enumerate(declared):
            yield join("/target/runtimes", index), name


def settle(claim: Claim, evidence: Evidence) -> Finding:
    runtime = find_runtime(claim.expected)
    if runtime is None:
        return unchecked(claim, f"no probe is named {claim.expected!r}; there are {', '.join(RUNTIMES)}")
    try:
        forms = evidence.forms()
    except SourceError as error:
        return unchecked(claim, f"the artifact cannot be listed: {error.what}")
    chosen = choose(runtime, forms)
    if not chosen and (partial := partly_listed(evidence)):
        return unchecked(claim, f"what {runtime.title} reads may be published and is not listed here: {partial}")
    if not chosen:
        reason = none_shipped(runtime, forms).reason
        return unproven(claim, reason, f"quant: publish what {runtime.title} reads", runtime=runtime.name)
    return judged(claim, runtime, [evidence.probe(runtime, form) for form in chosen], evidence.name)


def partly_listed(evidence: Evidence) -> str:
    """Why the listing at hand may lack files that are published; empty where it is whole."""
    try:
        evidence.source.fetch("any-file-that-nobody-publishes")
    except AbsentError:
        return ""
    except SourceError as error:
        return error.what.replace("any-file-that-nobody-publishes", "it")
    return ""


def judged(claim: Claim, runtime: Runtime, cells: list[Probed], artifact: str) -> Finding:
    """The finding of a claim that all these cells bear: the worst of them decides."""
    order = (Verdict.REFUTED, Verdict.UNCHECKED, Verdict.UNPROVEN, Verdict.CONFIRMED)
    worst = min(cells, key=lambda cell: order.index(cell.verdict))
    about = f"{worst.form or 'the checkpoint'} ({worst.precision or 'headers not read'}): {worst.reason}"
    told = {"runtime": runtime.name, "cells": [cell.tree() for cell in cells]}
    if worst.verdict is Verdict.CONFIRMED:
        reason = "; ".join(f"{cell.form or 'the checkpoint'} ({cell.precision}) {cell.reason}" for cell in cells)
        return confirmed(claim, runtime.name, reason, **told)
    if worst.verdict is Verdict.REFUTED:
        fix = worst.foretold[0].fix if worst.foretold else ""
        return refuted(claim, None, about, f"forge: {fix or 'make it load there, or do not declare it'}", **told)
    if worst.verdict is Verdict.UNPROVEN:
        return unproven(claim, about, "quant: publish what the runtime reads", **told)
    where = f"; where it can: forgekit probe {artifact} --runtime {runtime.name}"
    return unchecked(claim, about + where, **told)


CHECK = Check(name="runtime", tier="runtime", claims=claims, settle=settle, domain="llm-forge")
