"""Every kind of claim: confirmed where honest, refuted where tampered with, unproven or unchecked without evidence."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgekit import alloy, digest
from forgekit.alloy.pointer import find
from forgekit.checks import CHECKS, Evidence, Settings
from forgekit.findings import Verdict
from forgekit.sources.catalog import Catalog
from forgekit.sources.folder import FolderSource
from forgekit.verify import claims_of, settle, verify
from tests.support import embedded
from tests.support.builders import mini_samples, write_alloy

DROP = object()
MODEL = "model.safetensors"
INTEGRITY = "/results/integrity"
ROW = "/results/benchmarks/0"
HASH = "sha256:" + "1" * 64
C, R, P, U = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED


@dataclass
class Case:
    """What is done to an honest artifact, and what one of its claims then comes to.

    Attributes:
        tree: values by JSON pointer; ``DROP`` removes.
        files: contents by path; None removes. The host lists them so.
        here: the same for what lies here only; the host lists what it listed before.
        late: values by JSON pointer, changed after pinning.
    """

    kind: str
    pointer: str
    verdict: Verdict
    says: str = ""
    tree: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    here: dict[str, Any] = field(default_factory=dict)
    late: dict[str, Any] = field(default_factory=dict)
    pinned: bool = True
    child: bool = False


def everything(value, pointer=""):
    """Every value in a tree, by JSON pointer."""
    yield pointer, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from everything(inner, f"{pointer}/{key}")


def put(tree, pointer, value):
    *path, last = pointer.split("/")[1:]
    node = tree
    for step in path:
        node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
    if isinstance(node, list):
        if int(last) == len(node):
            node.append(value)
        else:
            node[int(last)] = value
    elif value is DROP:
        node.pop(last, None)
    else:
        node[last] = value


def changed(files, changes):
    return {path: data for path, data in (files | changes).items() if data is not None}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


TREE, FILES = embedded._ember()
SIZE = len(FILES[MODEL])
SPOILT = flipped(FILES[MODEL])
MODEL_SHA = hashlib.sha256(FILES[MODEL]).hexdigest()
STUDENT, BASE, CORPUS = embedded.STUDENT, embedded.BASE, embedded.CORPUS
FEWER = b"".join(FILES[STUDENT].splitlines(keepends=True)[:-1])


def stale_receipt():
    """The alloyHash a document had before its modelHash was migrated."""
    before = copy.deepcopy({key: value for key, value in TREE.items() if key != "receipt"})
    del before["results"]["integrity"]["fileHashes"]
    before["results"]["integrity"]["modelHash"] = f"sha256:{MODEL_SHA}"
    return str(digest.sha256(alloy.write(before).removesuffix(b"\n")))


ANCHOR = {"model": "forgekit/other", "publishedScore": 80.0, "measuredScore": 79.2, "tolerance": 1.0, "passed": True}
PRUNE = "/stages/1"
ANCHORED = "/stages/2/calibrationAnchor"
PUBLICATION = "/receipt/publications/0"

CASES = [
    # tier 1
    Case("schema", "", C),
    Case("schema", "", R, "keepExpertsPerLayer", tree={PRUNE + "/keepExpertsPerLayer": "six"}),
    Case("schema", "", U, "sculpture", tree={"/domains": ["sculpture"]}),
    Case("dispatch", PRUNE, C, "expert-prune on qwen3_moe"),
    Case("dispatch", PRUNE, R, "qwen2", tree={"/source/architecture": "qwen2"}),
    Case("dispatch", PRUNE, U, "mamba", tree={"/source/architecture": "mamba"}),
    Case("dispatch", PRUNE, U, "expert-polish", tree={PRUNE + "/type": "expert-polish"}),
    Case("dispatch", PRUNE, R, "how many experts", tree={PRUNE + "/keepExpertsPerLayer": DROP}),
    Case("dispatch", PRUNE, P, "from an earlier stage", tree={"/stages/0": {"type": "eval", "benchmarks": []}}),
    Case("arithmetic", ROW + "/delta", C),
    Case("arithmetic", ROW + "/delta", R, "is -8.3, not -3.8", tree={ROW + "/delta": -3.8}),
    Case("arithmetic", PRUNE + "/prunePct", R, "25.00, not 30.0", tree={PRUNE + "/prunePct": 30.0}),
    Case("arithmetic", PRUNE + "/expertsDropped", R, "12, not 4", tree={PRUNE + "/expertsDropped": 4}),
    Case("arithmetic", PRUNE + "/expertsRenamed", C, "36"),
    Case("arithmetic", "/results/activeParamsB", R, "as they are", tree={"/results/activeParamsB": 3e-06}),
    Case("acceptance", "/acceptanceCriteria", C),
    Case(
        "acceptance",
        "/acceptanceCriteria",
        R,
        "at least 90",
        tree={"/acceptanceCriteria/benchmarks/forgekit_mini/min": 0.9},
    ),
    Case("acceptance", "/acceptanceCriteria", P, "mbpp", tree={"/acceptanceCriteria/benchmarks/mbpp": {"min": 0.5}}),
    # tier 2
    Case("reforge", "/source/baseModel", U, "records no stages"),
    Case("reforge", "/source/baseModel", P, "no revision", tree={"/source/revision": DROP}),
    Case("reforge", "/source/baseModel", P, "can move", tree={"/source/revision": "main"}),
    Case("perplexity", "/results/finalPerplexity", P, "no corpus", tree={"/results/finalPerplexity": 9.5}),
    Case(
        "perplexity",
        "/results/finalPerplexity",
        U,
        "which of its corpora",
        tree={"/results/finalPerplexity": 9.5, INTEGRITY + "/datasets": [{"name": "x", "hash": HASH}]},
    ),
    Case(
        "generation-sample",
        "/results/samples/0/completion",
        P,
        "generation sample",
        tree={"/results/samples": [{"prompt": "(generation sample)", "completion": "x"}]},
    ),
    Case(
        "generation-sample",
        "/results/samples/0/completion",
        P,
        "decoding",
        tree={"/results/samples": [{"prompt": "x", "completion": "y"}]},
    ),
    Case(
        "generation-sample",
        "/results/samples/0/completion",
        U,
        "takes the weights",
        tree={"/results/samples": [{"prompt": "x", "completion": "y", "seed": 1}]},
    ),
    # tier 3
    Case("alloy-hash", "", C),
    Case("alloy-hash", "", R, "not the one that was pinned", late={"/description": "better"}),
    Case("alloy-hash", "/receipt/alloyHash", C, "before its receipt"),
    Case("alloy-hash", "/receipt/alloyHash", R, "something else", tree={"/description": "better"}),
    Case("alloy-hash", "/receipt/alloyHash", R, "3 hex digits", tree={"/receipt/alloyHash": "sha256:abc"}),
    Case("alloy-hash", "/receipt/alloyHash", R, "stale: .* migrated", tree={"/receipt/alloyHash": stale_receipt()}),
    Case("alloy-hash", "/receipt/alloyHash", P, "placeholder", tree={"/receipt/alloyHash": "to-be-filled"}),
    Case("alloy-hash", "/receipt/verifyUrl", C),
    Case("alloy-hash", "/receipt/verifyUrl", R, "no hash", tree={"/receipt/verifyUrl": "https://example.org/x"}),
    Case("alloy-hash", INTEGRITY + "/alloyHash", U, "pipeline definition", tree={INTEGRITY + "/alloyHash": HASH}),
    Case("card-hash", "/receipt/cardHash", C),
    Case("card-hash", "/receipt/cardHash", R, "changed after", files={"README.md": b"# better\n"}),
    Case("card-hash", "/receipt/cardHash", P, "not published", files={"README.md": None}),
    Case("card-hash", "/receipt/cardHash", U, "not pinned here", here={"README.md": None}),
    Case("receipt", "/receipt", U, "nobody but the publisher"),
    Case("receipt", "/receipt", P, "empty", tree={"/receipt": {}}),
    Case("receipt", "/receipt", P, "no date", tree={"/receipt/issuedAt": DROP}),
    Case(
        "publication", PUBLICATION + "/url", C, "pinned", tree={PUBLICATION: {"url": "https://example.org/lab/ember"}}
    ),
    Case("publication", PUBLICATION + "/url", U, "called", tree={PUBLICATION: {"url": "https://example.org/lab/coal"}}),
    Case("publication", PUBLICATION + "/url", U, "not of a model", tree={PUBLICATION: {"url": "ipfs://x"}}),
    Case("model-hash", INTEGRITY + "/modelHash", C),
    Case("model-hash", INTEGRITY + "/modelHash", R, "manifest of", tree={INTEGRITY + "/modelHash": HASH}),
    Case(
        "model-hash",
        INTEGRITY + "/modelHash",
        R,
        "superseded concat",
        tree={INTEGRITY + "/modelHash": f"sha256:{MODEL_SHA}"},
    ),
    Case("model-hash", INTEGRITY + "/modelHash", R, "63 hex", tree={INTEGRITY + "/modelHash": HASH[:-1]}),
    Case("model-hash", INTEGRITY + "/modelHash", P, "without a hash", tree={INTEGRITY + "/modelHash": None}),
    Case(
        "model-hash",
        INTEGRITY + "/modelHash",
        R,
        "cannot be computed",
        tree={INTEGRITY + "/fileHashes": [{"filename": MODEL, "sha256": MODEL_SHA}] * 2},
    ),
    Case("model-hash", INTEGRITY + "/modelHash", C, "as published", tree={INTEGRITY + "/fileHashes": []}),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", C, "its bytes"),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", C, "not downloaded", here={MODEL: None}),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", R, "by its bytes", here={MODEL: SPOILT}),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", R, "as pinned", files={MODEL: SPOILT}, here={MODEL: None}),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", R, "by its bytes", here={MODEL: FILES[MODEL][:-100]}),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", R, "not published", files={MODEL: None}),
    Case(
        "file-hash",
        INTEGRITY + "/fileHashes/0/sha256",
        R,
        "63 hex",
        tree={INTEGRITY + "/fileHashes/0/sha256": "1" * 63},
    ),
    Case(
        "file-hash",
        INTEGRITY + "/fileHashes/0/sha256",
        P,
        "placeholder",
        tree={INTEGRITY + "/fileHashes/0/sha256": "?"},
    ),
    Case(
        "file-hash", INTEGRITY + "/fileHashes/0/sha256", P, "no file", tree={INTEGRITY + "/fileHashes/0/filename": DROP}
    ),
    Case(
        "file-hash",
        INTEGRITY + "/fileHashes/0/sha256",
        P,
        "leaves",
        tree={INTEGRITY + "/fileHashes/0/filename": "../x"},
    ),
    Case("file-hash", INTEGRITY + "/fileHashes/0/sha256", U, "no pin", here={MODEL: None}, pinned=False),
    Case("file-size", INTEGRITY + "/fileHashes/0/size", C),
    Case(
        "file-size", INTEGRITY + "/fileHashes/0/size", R, "bytes by", tree={INTEGRITY + "/fileHashes/0/size": SIZE + 1}
    ),
    Case("file-size", INTEGRITY + "/fileHashes/0/size", U, "no pin", here={MODEL: None}, pinned=False),
    Case("file-list", INTEGRITY + "/fileHashes", C),
    Case("file-list", INTEGRITY + "/fileHashes", R, "no hash covers", files={"extra.safetensors": b"x"}),
    Case("file-list", INTEGRITY + "/fileHashes", U, "no pin", pinned=False),
    Case("samples-hash", ROW + "/resultHash", C),
    Case("samples-hash", ROW + "/resultHash", R, "not the samples", here={STUDENT: FILES[BASE]}),
    Case("samples-hash", ROW + "/resultHash", P, "without a hash", tree={ROW + "/resultHash": None}),
    Case("samples-hash", ROW + "/resultHash", P, "no samples file", tree={ROW + "/samplesPath": None}),
    Case("samples-hash", ROW + "/resultHash", P, "not published", files={STUDENT: None}),
    Case("samples-hash", ROW + "/resultHash", C, "not downloaded", here={STUDENT: None}),
    Case("samples-hash", ROW + "/resultHash", U, "no pin", here={STUDENT: None}, pinned=False),
    Case("corpus", "/calibrationCorpora/0/sha256", C),
    Case("corpus", "/calibrationCorpora/0/sha256", R, "not the text", here={CORPUS: b"{}\n"}),
    Case("corpus", "/calibrationCorpora/0/sha256", P, "no hash", tree={"/calibrationCorpora/0/sha256": DROP}),
    Case("corpus", "/calibrationCorpora/0/sha256", P, "not published", files={CORPUS: None}),
    Case("corpus", "/calibrationCorpora/0/sha256", U, "by hash only", tree={"/calibrationCorpora/0/path": DROP}),
    Case("corpus", "/calibrationCorpora/0/sha256", U, "not pinned here", here={CORPUS: None}),
    Case("corpus", "/stages/0/calibrationCorpus", C),
    Case("corpus", "/stages/0/calibrationCorpus", P, "no hash", tree={"/stages/0/calibrationCorpus": "ashes"}),
    Case("lineage", "/derivedFrom/alloyHash", C, child=True),
    Case("lineage", "/derivedFrom/alloyHash", R, "not the parent", child=True, tree={"/derivedFrom/alloyHash": HASH}),
    Case("lineage", "/derivedFrom/alloyHash", P, "is null", child=True, tree={"/derivedFrom/alloyHash": None}),
    Case("lineage", "/derivedFrom/alloyHash", U, "no catalog", child=True, tree={"/derivedFrom/repo": "lab/lost"}),
    Case("lineage", INTEGRITY + "/parentAlloyHash", C, child=True),
    Case("lineage", "/derivedFrom/repo", C, "and then package", child=True),
    Case(
        "lineage",
        "/derivedFrom/repo",
        R,
        "do not begin",
        child=True,
        tree={"/stages": [{"type": "package", "format": "x"}]},
    ),
    Case("signature", INTEGRITY + "/signature", P, "not signed"),
    Case("signature", INTEGRITY + "/trustLevel", R, "nothing is signed", tree={INTEGRITY + "/trustLevel": "verified"}),
    Case(
        "signature",
        INTEGRITY + "/signature",
        U,
        "no key registry is set",
        tree={INTEGRITY + "/signature": {"keyId": "k"}},
    ),
    Case(
        "code", INTEGRITY + "/code/binaryHash", P, "placeholder", tree={INTEGRITY + "/code": {"binaryHash": "none yet"}}
    ),
    Case("code", INTEGRITY + "/code/binaryHash", R, "2 hex", tree={INTEGRITY + "/code": {"binaryHash": "sha256:ab"}}),
    Case(
        "code", INTEGRITY + "/code/binaryHash", P, "where its source", tree={INTEGRITY + "/code": {"binaryHash": HASH}}
    ),
    Case(
        "code",
        INTEGRITY + "/code/binaryHash",
        U,
        "not fetched",
        tree={INTEGRITY + "/code": {"binaryHash": HASH, "commit": "1" * 40, "sourceRepo": "https://example.org/x"}},
    ),
    Case("parameters", "/results/forgedParamsB", C),
    Case("parameters", "/results/forgedParamsB", R, "headers hold", tree={"/results/forgedParamsB": 7e-06}),
    Case("parameters", "/results/forgedParamsB", U, "not here", here={MODEL: None}),
    Case("parameters", "/results/forgedParamsB", U, "header", here={MODEL: FILES[MODEL][:50]}),
    # tier 4
    Case("score", ROW + "/score", C, "21/24"),
    Case("score", ROW + "/score", R, "87.50 %, not 91.7", tree={ROW + "/score": 91.7}),
    Case("score", ROW + "/score", R, "too coarse", tree={ROW + "/score": 88}),
    Case("score", ROW + "/score", C, "21/24", tree={ROW + "/score": 0.875}),
    Case("score", ROW + "/score", P, "without samples", tree={ROW + "/samplesPath": None}),
    Case("score", ROW + "/score", P, "not published", files={STUDENT: None}),
    Case("score", ROW + "/score", P, "one record per", files={STUDENT: FEWER}, tree={ROW + "/resultHash": DROP}),
    Case("score", ROW + "/score", U, "not the file that was hashed", here={STUDENT: FILES[BASE]}),
    Case("score", ROW + "/score", U, "no scorer", tree={ROW + "/name": "arc_agi"}),
    Case("score", ROW + "/score", U, "not pinned here", here={STUDENT: None}),
    Case("anchor", ANCHORED, C, "0.8 points", tree={ANCHORED: ANCHOR}),
    Case("anchor", ANCHORED, R, "recorded as False", tree={ANCHORED: ANCHOR | {"passed": False}}),
    Case("anchor", ANCHORED, R, "1.5 points", tree={ANCHORED: ANCHOR | {"measuredScore": 78.5, "passed": None}}),
    Case("anchor", ANCHORED, P, "no published score", tree={ANCHORED: ANCHOR | {"publishedScore": None}}),
    Case("anchor", ANCHORED, P, "tolerance", tree={ANCHORED: ANCHOR | {"tolerance": "small"}}),
    # the runtime matrix
    Case("runtime", "/target/runtimes/0", U, "headers cannot be read", here={MODEL: None}),
    Case("runtime", "/target/runtimes/0", U, "no probe is named 'abacus'", tree={"/target/runtimes/0": "abacus"}),
    Case("runtime", "/target/runtimes/0", P, "ONNX Runtime reads onnx", tree={"/target/runtimes/0": "onnxruntime"}),
    Case(
        "quant-tier",
        "/stages/3/quantTypes/0",
        P,
        "no Q8_0 is shipped; there is no gguf at all",
        tree={"/stages/3": {"type": "quant", "format": "gguf", "quantTypes": ["Q8_0"]}},
    ),
    Case("hardware", "/results/hardwareVerified/0", U, "only a two-core"),
    Case(
        "hardware",
        "/results/hardwareVerified/0",
        P,
        "not verified",
        tree={"/results/hardwareVerified/0/verified": False},
    ),
]


def prepared(root, case):
    """The artifact of a case, as a catalog with one entry (and its parent)."""
    tree, files = copy.deepcopy(TREE), dict(FILES)
    name = "lab/ember"
    if case.child:
        embedded._write(root, "forgekit/ember-moe-tiny", embedded._ember())
        embedded._packaged(root, embedded._ember())
        name = "forgekit/ember-moe-tiny-packaged"
        tree = alloy.read_file(root / name / "ember-moe-tiny-packaged.alloy.json").tree
        files = {CORPUS: FILES[CORPUS]}
    for pointer, value in case.tree.items():
        put(tree, pointer, value)
    listed = changed(files, case.files)
    embedded._write(root, name, (tree, changed(listed, case.here)), published=listed)
    folder = root / name
    if case.late:
        for pointer, value in case.late.items():
            put(tree, pointer, value)
        next(folder.glob("*.alloy.json")).write_bytes(alloy.write(tree))
    if not case.pinned:
        (folder / "forgekit-pin.json").unlink()
    return Catalog(root), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.verdict.value} {case.says}".strip())
def test_the_verdict_is(case, tmp_path):
    catalog, name = prepared(tmp_path, case)
    entry = catalog.entry(name)
    claims = [
        claim
        for claim in claims_of(name, entry.alloy(), entry)
        if (claim.kind, claim.pointer) == (case.kind, case.pointer)
    ]
    assert len(claims) == 1
    evidence = Evidence(
        name=name, alloy=entry.alloy(), source=entry, settings=Settings(offline=True, catalogs=[catalog])
    )

    finding = settle(claims[0], evidence)

    assert finding.verdict is case.verdict, finding
    said = f"{finding.observed} {finding.reason}"
    assert re.search(case.says, said), said
    if case.verdict in (R, P):
        layer, _, what = finding.fix.partition(": ")
        assert layer
        assert what


def verdicts_of(kind):
    return {case.verdict for case in CASES if case.kind == kind}


CANNOT_CONFIRM = {"generation-sample", "receipt", "signature", "code", "hardware"}
NOTHING_TO_REFUTE = CANNOT_CONFIRM - {"signature", "code"} | {"publication"}
NEEDS_NO_EVIDENCE = {"arithmetic"}


# shown on what was forged, in test_forged.py and test_running.py
RUN = {"reforge", "stage-output", "surgery-proof", "perplexity", "runtime", "quant-tier", "runtime-link"}


@pytest.mark.parametrize("kind", [kind for kind in CHECKS if kind not in RUN])
def test_every_check_is_shown_honest_tampered_with_and_without_evidence(kind):
    shown = verdicts_of(kind)

    assert (C in shown) is (kind not in CANNOT_CONFIRM)
    assert (R in shown) is (kind not in NOTHING_TO_REFUTE)
    assert bool(shown & {P, U}) is (kind not in NEEDS_NO_EVIDENCE)


def test_the_samples_here_are_the_honest_ones():
    assert FILES[BASE] == mini_samples({"Mini/23": embedded.WRONG["Mini/23"]})
    assert find(TREE, ROW + "/samplesPath") == STUDENT


junk = st.sampled_from(
    [None, True, False, 0, -1, 2.5, 10**400, "", "x", "/", "\x00", "../..", [], {}, [[]], [None], {"": 0}]
)
POINTERS = [pointer for pointer, _ in everything(TREE) if pointer]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(POINTERS), junk, min_size=1, max_size=6))
def test_no_document_makes_a_check_raise(changes):
    tree = copy.deepcopy(TREE)
    for pointer, value in changes.items():
        with contextlib.suppress(LookupError, TypeError, AttributeError, ValueError):  # what it stood in is gone
            put(tree, pointer, copy.deepcopy(value))
    with tempfile.TemporaryDirectory() as folder:
        write_alloy(Path(folder), tree)
        report = verify(FolderSource(Path(folder)), Settings(offline=True))

    assert report.findings or report.error
    for finding in report.findings:
        assert finding.reason or finding.verdict is C
        assert "check broke" not in (finding.reason or "")
