"""The stage chain as SLSA v1 provenance, by in-toto's own classes."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from forgekit import alloy
from forgekit.attest import statement
from forgekit.attest.materials import UNPINNED, files, materials
from forgekit.attest.provenance import BUILD_TYPE, UNRECORDED, provenance
from forgekit.errors import AttestationError, ProofError
from tests.support import embedded
from tests.support.builders import an_alloy
from tests.support.published import CATALOG, folder
from tests.support.running import EMBEDDED

MINIS = sorted((EMBEDDED / "minis").glob("*/*.alloy.json"))
COMPACT = alloy.read_file(EMBEDDED / "minis" / "qwen3-moe-compact" / "qwen3-moe-compact.alloy.json")
EMBER = embedded._ember()[0]
ROWS = [{"filename": "model.safetensors", "sha256": "a" * 64}]


def document(**changes):
    tree = an_alloy(**changes)
    tree["results"] = {"integrity": {"fileHashes": ROWS}} | changes.get("results", {})
    return alloy.read(alloy.write(tree), where="ember.alloy.json")


def read(data):
    return json.loads(data)


@pytest.mark.parametrize("path", MINIS, ids=lambda path: path.parent.name)
def test_in_toto_s_classes_take_it_and_give_it_back(path):
    made = provenance(alloy.read_file(path))

    held = Statement.copy_from_pb(json_format.Parse(made, statement_pb2.Statement()))
    held.validate()
    assert json_format.MessageToDict(held.pb) | {"predicate": None} == read(made) | {"predicate": None}
    predicate = read(made)["predicate"]
    message = json_format.Parse(json.dumps(predicate), provenance_pb2.Provenance())
    assert json_format.MessageToDict(message) == predicate


def test_the_subjects_are_every_recorded_file_and_the_alloy():
    tree = read(provenance(COMPACT))

    found = {row["name"]: row["digest"]["sha256"] for row in tree["subject"]}
    recorded = {row["filename"]: row["sha256"] for row in COMPACT.at("/results/integrity/fileHashes")}
    assert recorded.items() <= found.items()
    assert found["qwen3-moe-compact.alloy.json"] == COMPACT.hash.hex
    assert "eval/forgekit_mini/samples.jsonl" in found


def test_it_says_what_went_in_what_ran_and_what_each_stage_made():
    predicate = read(provenance(COMPACT))["predicate"]

    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    roles = [row["annotations"]["role"] for row in definition["resolvedDependencies"]]
    assert roles == ["base-model", "corpus", "samples"]
    assert definition["buildType"] == BUILD_TYPE
    assert definition["externalParameters"]["recipe"]["stages"] == COMPACT.at("/stages")
    assert "results" not in definition["externalParameters"]["recipe"]
    assert details["builder"]["id"] == "pkg:pypi/forgekit@0.1.0"
    locks = {row["annotations"]["role"]: row["digest"]["sha256"] for row in details["builder"]["builderDependencies"]}
    assert f"sha256:{locks['environment']}" == COMPACT.at("/results/integrity/code/environmentHash")
    assert len(details["byproducts"]) == len(COMPACT.at("/results/stages"))
    assert details["metadata"] == {"finishedOn": "2026-05-28T20:26:40Z"}


def test_the_base_is_named_by_package_url_and_commit():
    row = next(m for m in materials(document()) if m.role == "base-model")

    assert row.purl == f"pkg:huggingface/forgekit/base@{'1' * 40}"
    assert dict(row.digest) == {"gitCommit": "1" * 40}


def test_what_was_not_pinned_is_said_to_be():
    tree = document(source={"baseModel": "a b c", "revision": "main"}, derivedFrom={"repo": "org/parent"})

    found = {m.role: m for m in materials(tree)}
    assert found["base-model"].purl is None
    assert all(found[role].notes["unpinned"] == UNPINNED for role in ("base-model", "parent", "corpus"))
    provenance(tree)


def test_the_same_alloy_gives_the_same_bytes_and_no_time_of_its_own(monkeypatch):
    first = provenance(COMPACT)
    monkeypatch.setenv("TZ", "Asia/Tokyo")

    assert provenance(alloy.read(COMPACT.data, where="elsewhere/qwen3-moe-compact.alloy.json")) == first
    timeless = document()
    assert "metadata" not in read(provenance(timeless))["predicate"]["runDetails"]
    dated = read(provenance(timeless, epoch=0))["predicate"]["runDetails"]["metadata"]
    assert dated == {"finishedOn": "1970-01-01T00:00:00Z"}


def test_a_builder_that_nobody_recorded_is_not_made_up():
    assert read(provenance(document()))["predicate"]["runDetails"]["builder"] == {"id": UNRECORDED}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "records no hash of any file"),
        ([*ROWS, {"filename": "model.safetensors", "sha256": "b" * 64}], "two hashes"),
        ([{"filename": "../x", "sha256": "a" * 64}], "no path inside"),
        ([{"filename": "x", "sha256": "sha256:legacy"}], "has no SHA-256"),
    ],
)
def test_nothing_is_stated_of_files_that_are_not_recorded(rows, says):
    tree = document(results={"integrity": {"fileHashes": rows}})

    with pytest.raises(AttestationError, match=says):
        provenance(tree)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, width=32)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=80, deadline=None)
def test_whatever_a_recipe_holds_the_statement_is_one(value):
    try:
        tree = document(stages=[{"type": "x", "value": value}], anything=value)
    except (UnicodeEncodeError, ValueError):
        return

    assert files(tree) == {"model.safetensors": "a" * 64}
    provenance(tree)


@pytest.mark.parametrize("data", [b"{}", b'{"_type": "x"}', b'{"subject": 1}', b"[]", b'{"other": 1}'])
def test_what_is_no_statement_is_not_taken(data):
    with pytest.raises(ProofError):
        statement.validate(data)
    with pytest.raises(AttestationError):
        statement.read(data, "x")


def test_every_published_alloy_that_records_files_has_provenance():
    from forgekit.attest.mlbom import bom

    made = 0
    for path in sorted(folder(CATALOG).rglob("*.alloy.json")):
        document = alloy.read_file(path)
        if document.at("/results/integrity/fileHashes"):
            made += bool(provenance(document)) + bool(bom(document))
    assert made
