"""Each recorded pass of a runtime is for the bytes that are published, and before what ends the chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forgekit import digest
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, objects
from forgekit.checkpoint.counting import SPLIT
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unchecked, unproven
from forgekit.errors import DigestError, ForgeError
from forgekit.findings import Claim, Finding, Verdict
from forgekit.forge.inputs import FINAL
from forgekit.forms import ADAPTER
from forgekit.runtimes import find_runtime
from forgekit.stages.validate_runtime import bytes_hash

LAYER = "forge: run validate-runtime on the bytes that are published"
CHAIN = "/target/runtimes"


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/results/stages"):
        for place, link in objects(row, "/links") if row.get("type") == "validate-runtime" else ():
            yield pointer + place, link.get("artifactHash")
    declared = alloy.at(CHAIN)
    ends = any(str(stage.get("type")) in FINAL for _, stage in objects(alloy.tree, "/stages"))
    ends = ends or isinstance(alloy.at("/results/integrity/signature"), dict)
    if isinstance(declared, list) and declared and ends:
        yield CHAIN, declared, "chain"


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if claim.pointer == CHAIN:
        return _settle_chain(claim, evidence)
    if malformed := judge_hash_text(claim, "forge"):
        return malformed
    link = find(evidence.alloy.tree, claim.pointer)
    name = str(link.get("form") or "")
    found = published_hash(evidence.alloy, name)
    if found is None:
        return unproven(claim, f"no hash of {name or 'the weights'} is recorded to hold the link to", LAYER)
    if found != claim.expected:
        what = name or "the weights"
        return refuted(claim, found, f"the link is for other bytes: {what} in fileHashes give {found[:23]}", LAYER)
    return _run_again(claim, link, name, evidence)


def _run_again(  # noqa: PLR0911 - one per reason
    claim: Claim, link: Mapping[str, Any], name: str, evidence: Evidence
) -> Finding:
    bound = "the link is for the bytes that fileHashes lists"
    runtime = find_runtime(link.get("runtime"))
    if runtime is None:
        return unchecked(claim, f"{bound}; no probe is named {link.get('runtime')!r}")
    try:
        form = next((form for form in evidence.forms() if form.name == name), None)
    except ForgeError as error:
        return unchecked(claim, f"{bound}; the artifact cannot be listed: {error.what}")
    if form is None:
        return unchecked(claim, f"{bound}; {name or 'a checkpoint'} is not listed here")
    try:
        present = None if form.path is None else bytes_hash(form)
    except ForgeError as error:
        return unchecked(claim, f"{bound}; what is here cannot be hashed: {error}")
    if present not in (None, claim.expected):
        reason = f"the link is for other bytes than {name or 'the weights'} here, {str(present)[:23]}"
        return refuted(claim, present, reason, LAYER)
    probed = evidence.probe(runtime, form)
    told = {"cell": probed.tree()}
    if probed.verdict is Verdict.REFUTED:
        return refuted(claim, None, f"run again, it does not pass: {probed.reason}", LAYER, **told)
    if probed.verdict is not Verdict.CONFIRMED:
        return unchecked(claim, f"{bound}; not run again here: {probed.reason}", **told)
    same = probed.evidence["outputHash"] == link.get("outputHash")
    if same:
        return confirmed(claim, claim.expected, f"{bound}, and run again it answers the same tokens", **told)
    here = (probed.evidence["engine"], probed.evidence["version"])
    there = (link.get("engine"), link.get("engineVersion"))
    if here != there or probed.evidence["promptHash"] != link.get("promptHash"):
        ran = f"{here[0]} {here[1]} here, {there[0]} {there[1]} there"
        return unchecked(claim, f"{bound}; it passes here with other tokens ({ran})", **told)
    return unchecked(claim, f"{bound}; it passes here with other tokens, which another processor can explain", **told)


def published_hash(alloy: Alloy, form: str) -> str | None:
    """What a link to a form must carry: the file's hash, or the modelHash of the files in its folder."""
    rows = {
        str(row.get("filename")): str(row.get("sha256"))
        for _, row in objects(alloy.tree, "/results/integrity/fileHashes")
    }
    parts = {path: value for path, value in rows.items() if SPLIT.sub("", path) == SPLIT.sub("", form)}
    if form in parts and len(parts) == 1:
        return f"sha256:{rows[form].removeprefix('sha256:')}"
    inside = {path.rsplit("/", 1)[-1]: value for path, value in parts.items()} or dict(_inside(rows, form))
    try:
        return str(digest.model_hash(inside.items())) if inside else None
    except DigestError:
        return None


def _inside(rows: Mapping[str, str], folder: str) -> Iterator[tuple[str, str]]:
    for path, value in rows.items():
        if folder and path.startswith(f"{folder}/"):
            yield path.removeprefix(f"{folder}/"), value
        elif not folder and "/" not in path and path.endswith(".safetensors") and path != ADAPTER:
            yield path, value


def without_pass(alloy: Alloy) -> list[str]:
    """Declared runtimes that have no recorded pass on the bytes that are published."""
    declared = alloy.at(CHAIN)
    passed = {
        (str(link.get("runtime")), str(link.get("form") or ""))
        for _, row in objects(alloy.tree, "/results/stages")
        for _, link in objects(row, "/links")
        if published_hash(alloy, str(link.get("form") or "")) == link.get("artifactHash")
    }
    files = [str(row.get("filename")) for _, row in objects(alloy.tree, "/results/integrity/fileHashes")]
    missing = []
    for name in declared if isinstance(declared, list) else ():
        runtime = find_runtime(name)
        forms = {SPLIT.sub("", form) for known, form in passed if runtime is not None and known == runtime.name}
        read = {
            SPLIT.sub("", file)
            for file in files
            if runtime is not None and "gguf" in runtime.reads and file.endswith(".gguf")
        }
        if not forms or read - forms:
            missing.append(str(name))
    return missing


def _settle_chain(claim: Claim, evidence: Evidence) -> Finding:
    """Nothing that ends a chain stands without a pass of every declared runtime, on the bytes that are published."""
    rows = [row for _, row in objects(evidence.alloy.tree, "/results/stages")]
    if not rows:
        return unproven(claim, "the alloy records no stages, so no runtime is shown to have passed", LAYER)
    missing = without_pass(evidence.alloy)
    if missing:
        reason = f"the chain ends, and {' and '.join(missing)} has no pass on everything it reads of what is published"
        return refuted(claim, missing, reason, LAYER)
    return confirmed(claim, claim.expected, "each declared runtime has a recorded pass on the bytes of fileHashes")


CHECK = Check(name="runtime-link", tier="runtime", claims=claims, settle=settle, domain="llm-forge")
