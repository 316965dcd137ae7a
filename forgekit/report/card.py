"""The model card: what the alloy says, in the Hub's metadata and in words, with what of it anyone can check.

The card names the hash of the document without its receipt, and the receipt
names the hash of the card: so each holds the other, and neither has to be
written before itself.
"""

from __future__ import annotations

import copy
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from forgekit import alloy as alloys
from forgekit import digest
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, is_number, objects
from forgekit.amending import Amendment, bytes_of
from forgekit.attest.payload import document_hash
from forgekit.checks import Settings
from forgekit.findings import Verdict
from forgekit.report import clean
from forgekit.runtimes import find_runtime
from forgekit.sources import Source
from forgekit.sources.hub import HubSource
from forgekit.verify import verify

CARD, CODE = "README.md", "alloy-qr.png"
UNKNOWN = "not stated"


def carded(source: Source, now: Alloy, path: str) -> Amendment:
    """The card and its QR code, and the alloy with the card's hash in its receipt.

    Raises:
        ForgeError: the alloy cannot be written down, or the artifact cannot be listed.
    """
    tree = copy.deepcopy(now.tree)
    name = source.name
    url = _url(source, now, path)
    card = _render(source, now, path, name, url)
    receipt = tree.get("receipt")
    hashed = str(digest.sha256(card))
    tree["receipt"] = {**(receipt if isinstance(receipt, dict) else {}), "cardHash": hashed, "verifyUrl": url}
    data = alloys.write(tree) if tree != now.tree else now.data
    after = {CARD: card, CODE: qr(url), path: data}
    before = {file: found for file in (CARD, CODE) if (found := bytes_of(source, file)) is not None}
    return Amendment(alloy=path, before={**before, path: now.data}, after=after, title="Write the model card")


def qr(text: str) -> bytes:
    """A PNG of a QR code; the same bytes for the same text."""
    import segno

    out = io.BytesIO()
    segno.make_qr(text, error="m").save(out, kind="png", scale=4, border=4)
    return out.getvalue()


def _url(source: Source, now: Alloy, path: str) -> str:
    """Where the alloy stands, and which one it is."""
    fragment = document_hash(now.tree).removeprefix("sha256:")[:16]
    return f"https://huggingface.co/{_repo(source, now)}/blob/main/{path}#document-sha256:{fragment}"


def _repo(source: Source, now: Alloy) -> str:
    """The repository, or the one that the alloy's author and name make."""
    return source.name if isinstance(source, HubSource) else f"{now.at('/author') or 'org'}/{now.at('/name')}"


def _render(source: Source, now: Alloy, path: str, name: str, url: str) -> bytes:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(  # noqa: S701 - markdown: every text goes through ``plain``
        loader=PackageLoader("forgekit.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = list(objects(now.tree, "/results/integrity/fileHashes"))
    settled = _settled(source)
    text = pages.get_template("card.md").render(
        front=_front(now, url),
        name=plain(now.at("/name") or name),
        summary=plain(now.at("/userSummary") or now.at("/description") or "", long=True),
        benchmarks=[_benchmark(source, row) for _, row in objects(now.tree, "/results/benchmarks") if "score" in row],
        stages=[_stage(stage) for _, stage in objects(now.tree, "/stages")],
        base=plain(now.at("/source/baseModel") or UNKNOWN),
        cycles=_times(now.at("/cycles", 1)),
        runtimes=list(_runtimes(now)),
        files=[
            {"name": plain(row.get("filename")), "size": _grouped(row.get("size")), "sha256": plain(row.get("sha256"))}
            for _, row in rows
        ],
        limitations=[
            plain(" ".join(text.split()), long=True) for text in now.at("/limitations") or () if isinstance(text, str)
        ],
        alloy=path,
        claims=sum(settled.values()),
        coverage=", ".join(f"{count} {verdict}" for verdict, count in settled.items() if count) or "none",
        target=f"hf://{_repo(source, now)}",
        url=url,
        qr=CODE,
        document=document_hash(now.tree),
    )
    return (re.sub(r"\n{3,}", "\n\n", text).strip() + "\n").encode()


def _front(now: Alloy, url: str) -> str:
    """The Hub's metadata, with every score as an entry of the model index."""
    from huggingface_hub import EvalResult, ModelCardData

    name = str(now.at("/name") or "model")
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(row["name"]),
            dataset_name=str(row["name"]),
            metric_type=str(row.get("metric") or "pass@1"),
            metric_value=row["score"],
            source_name="forge alloy",
            source_url=url,
        )
        for _, row in objects(now.tree, "/results/benchmarks")
        if isinstance(row.get("name"), str) and is_number(row.get("score"))
    ]
    tags = now.at("/tags")
    base = now.at("/source/baseModel")
    data = ModelCardData(
        base_model=base if isinstance(base, str) else None,
        eval_results=results or None,
        license=str(now.at("/license") or "other"),
        model_name=name if results else None,
        pipeline_tag="text-generation",
        tags=sorted({tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else ()),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _benchmark(source: Source, row: Mapping[str, Any]) -> dict[str, str]:
    score, base = row.get("score"), row.get("baseScore")
    delta = row.get("delta", round(score - base, 4) if is_number(score) and is_number(base) else None)
    return {
        "name": plain(row.get("name")),
        "metric": plain(row.get("metric") or "pass@1"),
        "score": _number(score),
        "base": _number(base),
        "delta": f"{delta:+g}" if is_number(delta) else UNKNOWN,
        "coverage": _coverage(source, row),
    }


def _coverage(source: Source, row: Mapping[str, Any]) -> str:
    """Which of the two scores can be computed again from what is published."""
    told = []
    for who, path_key, hash_key in (
        ("score", "samplesPath", "resultHash"),
        ("base", "baseSamplesPath", "baseResultHash"),
    ):
        path = row.get(path_key)
        if not isinstance(path, str):
            told.append(f"{who}: no samples")
        elif path not in source.listing():
            told.append(f"{who}: samples named, not found")
        else:
            told.append(f"{who}: samples" + (", hashed" if row.get(hash_key) else ", not hashed"))
    if isinstance(row.get("scoreCorrection"), Mapping):
        told.append("corrected since")
    if isinstance(row.get("inheritedFrom"), str):
        told = [f"of {plain(row['inheritedFrom'])}; not measured on this artifact"]
    return "; ".join(told)


def _stage(stage: Mapping[str, Any]) -> str:
    told = [
        f"{plain(key)} {plain(' '.join(map(str, value)) if isinstance(value, list) else value)}"
        for key, value in stage.items()
        if key not in ("type", "notes") and value not in (None, [], "") and not isinstance(value, bool | dict)
    ]
    return f"**{plain(stage.get('type'))}**" + (f": {', '.join(told)}" if told else "")


def _runtimes(now: Alloy) -> Iterator[dict[str, str]]:
    declared = find(now.tree, "/target/runtimes")
    links = [link for _, row in objects(now.tree, "/results/stages") for _, link in objects(row, "/links")]
    for name in declared if isinstance(declared, list) else ():
        known = find_runtime(name)
        passed = [link for link in links if known is not None and link.get("runtime") == known.name]
        told = ", ".join(
            plain(f"{link.get('engine')} {link.get('engineVersion')} ({link.get('form') or 'checkpoint'})")
            for link in passed
        )
        yield {"name": plain(known.title if known else name), "passed": told or "none"}


def _limitations(now: Alloy) -> Iterator[str]:
    stated = now.at("/limitations")
    for text in stated if isinstance(stated, list) else ():
        yield plain(" ".join(str(text).split()), long=True)


def _settled(source: Source) -> dict[str, int]:
    """Claims by verdict, from dispatch and hashes alone; those about the card itself are left out."""
    counted: Counter[str] = Counter()
    report = verify(source, Settings(offline=True), tiers=(1, 3))
    if report.error is not None:
        raise report.error
    for finding in report.findings:
        if not finding.claim.pointer.startswith("/receipt"):
            counted[finding.verdict.value] += 1
    return {verdict.value: counted[verdict.value] for verdict in Verdict}


def plain(value: Any, *, long: bool = False) -> str:
    """A text that is only a text in markdown: on one line, without markup that leads elsewhere.

    Args:
        long: keep paragraphs and emphasis.
    """
    text = clean(str(value)) if not long else "\n\n".join(clean(part) for part in str(value).split("\n\n"))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if long:
        return text
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()))


def _number(value: Any) -> str:
    return f"{value:g}" if is_number(value) else UNKNOWN


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else UNKNOWN


def _times(value: Any) -> str:
    return "one pass" if value == 1 else f"{value} passes" if isinstance(value, int) else UNKNOWN
