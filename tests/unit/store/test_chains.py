"""A chain is whole when everything it rests on can be had; only then is it published, and from then on it stays."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.digest import Digest, model_hash, sha256
from forgekit.errors import AbsentError, AlloyError, BrokenChainError, ForgeError, StoreError
from forgekit.store import audit, chain, recipes, refs
from forgekit.store.chain import Held, Link
from forgekit.store.checking import fsck
from forgekit.store.collecting import collect, plan
from forgekit.store.objects import Store, key_of
from forgekit.store.remote import open_storage
from forgekit.store.replicas import restore
from tests.support.store import HOUR, STAGES, Clock, a_chain, a_recipe, a_store, delete_by_hand

ONE = Held("w", Digest("1" * 64), 3)
PARENT = Digest("2" * 64)


def reasons(store, **more):
    return {one.digest: (one.keep, one.reason) for one in plan(store, grace=0, **more)}


@pytest.fixture
def store(tmp_path):
    return a_store(tmp_path / "s", clock=Clock(tick=1.0))


def test_an_artifact_is_stored_under_its_model_hash(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    last = chain.load(store, links[-1])

    assert last.artifact == model_hash((held.name, held.digest.hex) for held in last.files)
    assert chain.parse_manifest(store.read(last.artifact), "") == [(held.name, held.digest) for held in last.files]
    assert [link.stage for _, link in chain.walk(store, links[-1])] == ["quant", "train", "prune", "source"]
    assert Link.parse(last.render(), "") == last


def test_a_deleted_intermediate_is_named_publishing_refused_and_a_replica_makes_it_good(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    replica = Store(open_storage(f"memory://{uuid.uuid4().hex}"), store.clock)
    assert not restore(replica, store, with_refs=True).failed
    lost = chain.load(store, links[1]).files[0]
    delete_by_hand(store, lost.digest)

    (found,) = audit.breaks(store, links[-1])
    with pytest.raises(BrokenChainError) as refused:
        audit.publish(store, "lab/ember", links[-1])

    assert (found.stage, found.missing) == ("1 (prune)", str(lost.digest))
    assert found.last_seen.startswith(f"{store.where(lost.digest)}, put 2026-")
    assert found.last_seen.endswith(f"from {tmp_path}/work/lab-ember-1-1")
    assert str(found) in str(refused.value)
    assert list(chain.published(store)) == []

    assert restore(store, replica).fetched == (lost.digest,)
    audit.publish(store, "lab/ember", links[-1])
    assert [one.breaks for one in audit.of_store(store, verify=True)] == [()]
    assert fsck(store).faults == ()


def test_each_thing_a_chain_rests_on_is_missed_when_it_is_gone(tmp_path):
    store = a_store(tmp_path / "s")
    links = a_chain(store, tmp_path / "work", run=b"the run")
    for index, head in enumerate(links):
        link = chain.load(store, head)
        for digest, _, _ in (*link.content, *link.records):
            path = store.storage.root / key_of(digest)
            data = path.read_bytes()
            path.unlink()
            assert [
                one.missing for one in audit.breaks(store, links[-1]) if one.stage == f"{index} ({link.stage})"
            ] == [str(digest)]
            path.write_bytes(data[:-1] + b"?")
            assert str(digest) in [one.missing for one in audit.breaks(store, links[-1], verify=True)]
            path.write_bytes(data)
    assert audit.breaks(store, links[-1], verify=True) == []


def test_a_link_that_is_gone_or_hurt_breaks_the_chain_there(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    path = store.storage.root / key_of(links[1])
    for spoil in (lambda: (path.chmod(0o644), path.write_bytes(b"{}")), path.unlink):
        spoil()

        (found,) = audit.breaks(store, links[-1])

        assert (found.stage, found.missing) == ("1", str(links[1]))
        with pytest.raises(ForgeError):
            list(chain.walk(store, links[-1]))


def test_a_collector_keeps_all_a_published_chain_needs_ephemeral_or_not(store, tmp_path):
    stages = (("source", "permanent"), ("prune", "ephemeral"), ("train", "permanent"))
    links = a_chain(store, tmp_path / "work", stages=stages)
    middle = chain.load(store, links[1])
    assert reasons(store)[middle.artifact] == (
        False,
        "ephemeral, and on no published chain: lab/ember, stage 1 (prune)",
    )
    audit.publish(store, "lab/ember", links[-1])

    assert reasons(store)[middle.artifact] == (True, "published chain lab/ember, stage 1 (prune)")
    collect(store, grace=0)
    assert audit.breaks(store, links[-1], verify=True) == []


def test_an_ephemeral_stage_goes_and_the_unpublished_chain_is_well_but_is_never_published(store, tmp_path):
    stages = (("source", "permanent"), ("prune", "ephemeral"), ("train", "permanent"))
    links = a_chain(store, tmp_path / "work", stages=stages)
    gone = collect(store, grace=0).deleted

    assert chain.load(store, links[1]).artifact in gone
    assert [one.breaks for one in audit.of_store(store)] == [()]
    with pytest.raises(BrokenChainError):
        audit.publish(store, "lab/ember", links[-1])


def test_until_superseded_and_attested_needs_both_and_on_every_branch(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    kept = chain.load(store, links[1]).artifact
    assert reasons(store)[kept][1] == "not yet superseded by a stage that is attested: lab/ember, stage 1 (prune)"
    path = tmp_path / "branch"
    path.write_bytes(b"another way on")
    branch = chain.append(
        store, chain="lab/other", stage="lora", retention="permanent", files={"w": path}, after=links[1]
    )

    chain.attest(store, links[2], b"it ran in llama.cpp")
    assert reasons(store)[kept][0]
    chain.attest(store, branch, b"it ran too")

    assert not reasons(store)[kept][0]
    assert "which is attested" in reasons(store)[kept][1]
    collect(store, grace=0)
    assert [one.breaks for one in audit.of_store(store)] == [(), ()]


def test_grace_keeps_what_nothing_names_yet_and_a_pin_keeps_it_for_good(store):
    loose, pinned = store.put(b"loose"), store.put(b"pinned")
    refs.pin(store, pinned)

    assert plan(store, grace=HOUR)[0].keep
    assert reasons(store) == {loose: (False, "nothing names it"), pinned: (True, "pinned")}
    assert collect(store, grace=0).freed == 5
    refs.unpin(store, pinned)
    assert collect(store, grace=0).deleted == (pinned,)
    assert list(store.storage.listing("about")) == list(store.storage.listing("objects")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"retention": "ephemeral"}, "cannot anchor a chain"),
        ({"index": 1}, "names its parent and its parent's artifact"),
        ({"parent": PARENT}, "names its parent and its parent's artifact"),
        ({"files": (Held("../w", ONE.digest, 3),)}, "no name of a file below a folder"),
        ({"evidence": (ONE,)}, "named twice"),
        ({"files": ()}, "at least one weight file"),
        ({"chain": "../x"}, "no name for a store"),
    ],
)
def test_a_link_that_may_not_be_is_not_made(change, said):
    with pytest.raises(ForgeError, match=said):
        Link(**{"chain": "lab/x", "index": 0, "stage": "source", "retention": "permanent", "files": (ONE,)} | change)


def test_a_link_is_not_recorded_over_missing_content_or_another_parent(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    common = {"chain": "lab/x", "stage": "s", "retention": "permanent"}
    with pytest.raises(StoreError, match="w is not in the store"):
        chain.record(store, Link(index=0, files=(ONE,), **common))
    held = chain.load(store, links[0]).files[:1]
    with pytest.raises(StoreError, match="says it was made from"):
        chain.record(store, Link(index=1, files=held, parent=links[0], parent_artifact=PARENT, **common))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["schema", "chain", "files", "retention", "index", "stage", "sha256"]),
                inner,
                max_size=7,
            )
        ),
    )
)
def test_no_bytes_make_reading_a_link_or_manifest_fail_in_another_way(tree):
    for read in (Link.parse, chain.parse_manifest):
        for value in (
            tree,
            {"schema": chain.SCHEMA, "retention": "permanent", **tree} if isinstance(tree, dict) else 0,
        ):
            try:
                read(json.dumps(value).encode(), "x")
            except StoreError:
                continue


def test_a_replica_that_is_hurt_or_has_gaps_restores_nothing_false(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    replica = Store(open_storage(f"memory://{uuid.uuid4().hex}"))
    restore(replica, store, with_refs=True)
    first, second = (held.digest for held in chain.load(store, links[1]).files)
    for digest in (first, second):
        delete_by_hand(store, digest)
    replica.storage.write(key_of(first), b"hurt")
    replica.storage.delete(key_of(second))

    found = restore(store, replica)

    assert dict(found.failed) == {first: "the replica's copy is hurt", second: "the replica does not hold it either"}
    assert found.fetched == ()
    assert store.size(first) is None


def test_hurt_objects_are_brought_back_when_every_byte_is_read(store, tmp_path):
    links = a_chain(store, tmp_path / "work")
    replica = Store(open_storage(f"memory://{uuid.uuid4().hex}"))
    restore(replica, store, with_refs=True)
    hurt = chain.load(store, links[1]).files[0].digest
    store.storage.write(key_of(hurt), b"x" * store.size(hurt))

    assert restore(store, replica).fetched == ()
    assert restore(store, replica, verify=True).fetched == (hurt,)
    assert fsck(store).faults == ()


# --- recipes and lineage ------------------------------------------------------------


def test_a_recipe_has_versions_in_semantic_order_and_a_parent(store):
    for version in ("1.10.0", "1.2.0", "1.2.0-rc.1", "1.2.0-rc.10", "1.2.0-rc.2"):
        recipes.add(store, a_recipe(version=version))
    made = recipes.add(store, a_recipe("ember-small", "0.1.0", parent="ember@1.10.0"))

    assert recipes.versions(store, "ember") == ["1.2.0-rc.1", "1.2.0-rc.2", "1.2.0-rc.10", "1.2.0", "1.10.0"]
    assert recipes.find(store, "ember").version == "1.10.0"
    assert [one.id for one in recipes.lineage(store, made.id)] == ["ember-small@0.1.0", "ember@1.10.0"]
    assert recipes.add(store, a_recipe(version="1.2.0")).digest == sha256(a_recipe(version="1.2.0"))
    assert collect(store, grace=0).deleted == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (a_recipe(version="1.0"), "not a semantic version"),
        (a_recipe(version="01.0.0"), "not a semantic version"),
        (a_recipe(version="2.0.0", parent="nobody@1.0.0"), "is not stored"),
        (a_recipe(version="2.0.0", parent="ember"), "has no version"),
        (a_recipe(version="0.9.0", parent="ember@1.0.0"), "is not older than itself"),
        (a_recipe() + b" ", "stored already, with other bytes"),
        (b'{"name": "x", "version": "1.0.0", "source": {}, "results": {}}', "cannot hold results"),
    ],
)
def test_a_recipe_that_may_not_be_is_not_stored(store, data, said):
    recipes.add(store, a_recipe())

    with pytest.raises((StoreError, AlloyError), match=said):
        recipes.add(store, data)
    assert len(list(refs.keys(store, refs.RECIPES))) == 1


def test_an_unknown_recipe_is_absent(store):
    for name in ("nobody", "nobody@1.0.0", "nobody@../x"):
        with pytest.raises(AbsentError):
            recipes.find(store, name)


def an_alloy_of(store, links, score=61.0):
    last = chain.load(store, links[-1])
    rows = [{"filename": held.name, "sha256": held.digest.hex} for held in last.files]
    integrity = {"modelHash": str(last.artifact), "fileHashes": rows}
    tree = {"name": "ember", "version": "1.0.0", "source": {}, "results": {"benchmarks": [{"score": score}]}}
    tree["results"]["integrity"] = integrity
    return tree


def test_an_artifact_edited_after_its_run_is_found_and_a_signature_is_no_edit(store, tmp_path):
    tree = an_alloy_of(store, a_chain(store, tmp_path / "w"))
    links = a_chain(store, tmp_path / "w", run=json.dumps(tree).encode())

    assert recipes.edits(store, links[-1], json.dumps(tree).encode()) == []
    tree["receipt"] = {"verifyUrl": "x"}
    tree["results"]["integrity"]["signature"] = {"value": "x"}
    assert recipes.edits(store, links[-1], json.dumps(tree).encode()) == []
    tree["results"]["benchmarks"][0]["score"] = 65.0
    tree["results"]["integrity"]["fileHashes"][0]["sha256"] = "0" * 64
    del tree["version"]
    tree["results"]["integrity"]["signature2"] = 1

    said = "\n".join(recipes.edits(store, links[-1], json.dumps(tree | {"version": "1"}).encode()))

    assert "/results/benchmarks/0/score is 65.0; the run wrote 61.0" in said
    assert '/version is "1"; the run wrote "1.0.0"' in said
    assert "/results/integrity/signature2 is 1, and is not in the record of the run" in said
    assert f"model-00001-of-00002.safetensors is said to hash to {'0' * 64}" in said


def test_a_chain_without_a_record_of_its_run_says_so(store, tmp_path):
    links = a_chain(store, tmp_path / "w", stages=STAGES[:1])

    with pytest.raises(StoreError, match="names no record of its run"):
        recipes.edits(store, links[-1], b"{}")
