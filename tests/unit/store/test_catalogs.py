"""Alloys as they are published, audited as chains: a broken promise is a break, an omission is unproven."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forgekit import alloy
from forgekit.digest import sha256
from forgekit.store import audit, chain
from forgekit.store.catalogs import Listed, Shelf
from forgekit.store.catalogs import audit as of_alloys
from forgekit.store.objects import key_of
from tests.support.running import EMBEDDED, forgekit, without_catalog
from tests.support.store import a_chain, a_store, delete_by_hand

GIVEN = os.environ.get("FORGEKIT_CATALOG")
NONE = "sha256:" + "0" * 64


@pytest.fixture
def store(tmp_path):
    return a_store(tmp_path / "s")


def rows_of(store, links):
    found = [chain.load(store, digest) for digest in links[1:]]
    return [
        {
            "type": link.stage,
            "artifactHash": str(link.artifact),
            "parentArtifactHash": str(link.parent_artifact),
            "retention": link.retention,
        }
        for link in found
    ]


def audited(store, rows, **more):
    last = rows[-1].get("artifactHash") if rows else None
    results = {"stages": rows, "integrity": {"modelHash": last, **more.pop("integrity", {})}}
    document = alloy.read(json.dumps({"name": "x", "version": "1", "results": results, **more}).encode())
    shelf = Shelf(store, store.held() if store else {}, lambda digest: digest == sha256(b"parent"))
    (found,) = of_alloys([Listed("lab/x", document, where="x.alloy.json")], shelf)
    return found


def test_an_alloy_whose_stages_are_all_stored_is_sound(store, tmp_path):
    assert audited(store, rows_of(store, a_chain(store, tmp_path / "w"))).sound


def test_a_deleted_shard_of_an_intermediate_breaks_the_alloy_that_promised_it(store, tmp_path):
    links = a_chain(store, tmp_path / "w")
    rows = rows_of(store, links)
    lost = chain.load(store, links[1])
    delete_by_hand(store, lost.files[1].digest)

    (found,) = audited(store, rows).breaks

    assert (found.stage, found.missing) == ("0 (prune)", str(lost.artifact))
    assert f"missing its file model-00002-of-00002.safetensors, {lost.files[1].digest}" in found.reason
    assert found.last_seen.startswith(store.where(lost.artifact))


def test_a_hurt_manifest_is_a_break_and_hurt_bytes_are_where_every_byte_is_read(store, tmp_path):
    links = a_chain(store, tmp_path / "w")
    rows, middle = rows_of(store, links), chain.load(store, links[1])
    one = middle.files[0]
    store.storage.write(key_of(one.digest), b"x" * one.size)
    assert audited(store, rows).sound
    document = alloy.read(json.dumps({"results": {"stages": rows, "integrity": {"modelHash": NONE}}}).encode())
    (found,) = of_alloys([Listed("x", document)], Shelf(store, store.held(), verify=True))
    assert "is hurt" in found.breaks[0].reason

    store.storage.write(key_of(middle.artifact), b"[]")
    assert "is hurt: the object hashes to" in audited(store, rows).breaks[0].reason


def test_what_was_never_promised_is_unproven_and_what_was_is_a_break_wherever_it_is_missing():
    rows = [{"type": "prune", "artifactHash": NONE, "retention": "permanent"}, {"type": "eval", "artifactHash": NONE}]
    rows[1]["artifactHash"] = str(sha256(b"end"))

    (found,) = audited(None, rows).breaks
    assert (found.missing, found.last_seen) == (NONE, "recorded in x.alloy.json")
    rows[0]["retention"] = "ephemeral"
    assert "on a chain that is published: ephemeral" in audited(None, rows).breaks[0].reason
    del rows[0]["retention"]
    assert audited(None, rows).breaks == ()
    assert "nobody promised to keep it" in audited(None, rows).unproven[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parentArtifactHash": NONE}, f"it was made from {NONE}; the stage before left"),
        ({"artifactHash": "sha256:XYZ"}, "the hash of its artifact is none: it is not hexadecimal"),
        ({"retention": "ephemeral"}, "a published chain cannot end in an ephemeral stage"),
    ],
)
def test_a_record_that_contradicts_itself_is_a_break(store, tmp_path, change, said):
    rows = rows_of(store, a_chain(store, tmp_path / "w"))

    found = audited(store, [*rows[:-1], rows[-1] | change])

    assert any(said in one.reason for one in found.breaks)


@pytest.mark.parametrize(
    ("parent", "verdict"),
    [
        (None, "is not recorded by hash"),
        (NONE, f"its parent's alloy {NONE} is missing"),
        ("sha256:none", "the hash of its parent is none"),
        (str(sha256(b"parent")), ""),
    ],
)
def test_a_parent_that_was_never_recorded_is_unproven_and_one_that_is_gone_a_break(store, tmp_path, parent, verdict):
    rows = rows_of(store, a_chain(store, tmp_path / "w"))

    found = audited(store, rows, derivedFrom={"repo": "lab/parent", "alloyHash": parent})

    said = [*(one.reason for one in found.breaks), *found.unproven]
    assert [verdict in line for line in said] == ([True] if verdict else [])
    assert bool(found.breaks) == (verdict != "" and parent is not None)


def test_what_is_published_unfinished_or_odd_is_unproven_and_never_fails():
    for tree in ({}, {"results": None}, {"stages": 3}, {"results": {"stages": [3, {}]}}, {"derivedFrom": {}}):
        (found,) = of_alloys([Listed("x", alloy.read(json.dumps(tree).encode()))], Shelf())
        assert found.unproven
        assert found.breaks == ()


def test_the_embedded_catalog_has_no_break():
    ran = forgekit("store", "audit", "--catalog", EMBEDDED, "--json", env=without_catalog(FORGEKIT_STORE="/nowhere"))

    assert ran.code == 0
    assert ran.json["summary"]["broken"] == 0
    assert ran.json["summary"]["sound"] > 0


@pytest.mark.skipif(not GIVEN, reason="FORGEKIT_CATALOG names no catalog of published alloys")
def test_published_alloys_that_never_recorded_a_parent_are_unproven_and_none_is_broken():
    ran = forgekit("store", "audit", "--catalog", Path(GIVEN), "--json", env=without_catalog(FORGEKIT_STORE="/nowhere"))

    assert ran.json["summary"]["broken"] == 0
    assert ran.json["summary"]["chains"] > 0


def test_a_chain_of_the_store_and_its_published_name_are_one(store, tmp_path):
    links = a_chain(store, tmp_path / "w")
    audit.publish(store, "lab/ember-v1", links[-1])

    (found,) = audit.of_store(store)

    assert (found.chain, found.stages, found.published, found.sound) == ("lab/ember-v1", 4, True, True)
