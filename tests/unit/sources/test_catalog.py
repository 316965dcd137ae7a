from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.digest import Digest
from forgekit.errors import AbsentError, SourceError, UnreachableError
from forgekit.sources import FileRecord
from forgekit.sources.catalog import Broken, Catalog
from forgekit.sources.pins import PIN_NAME, Pin, differences
from tests.support.builders import an_alloy, write_alloy
from tests.support.running import EMBEDDED, forgekit, small_catalog

RECORDS = st.builds(
    FileRecord,
    path=st.text(min_size=1, max_size=10),
    size=st.none() | st.integers(0, 10**12),
    sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    git_sha1=st.none() | st.text("0123456789abcdef", min_size=40, max_size=40),
    told_by=st.just(""),
)
PINS = st.builds(
    Pin,
    repo=st.just("org/name"),
    revision=st.text("0123456789abcdef", min_size=40, max_size=40),
    alloy=st.just("a.alloy.json"),
    alloy_hash=st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex())),
    files=st.lists(RECORDS, max_size=4, unique_by=lambda record: record.path).map(tuple),
    retrieved_at=st.none() | st.just("2026-11-20T00:00:00+00:00"),
)


@given(PINS)
def test_a_pin_survives_being_written_and_read(pin):
    read = Pin.parse(pin.render(), "x")

    assert read.render() == pin.render()
    assert differences(pin, read) == []


@given(PINS, PINS)
def test_any_difference_between_pins_is_shown(old, new):
    changed = old.render() != new.render() and (old.files, old.revision, old.alloy_hash) != (
        new.files,
        new.revision,
        new.alloy_hash,
    )

    assert bool(differences(old, new)) == changed


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema": "forgekit.pin/9"}', b'{"schema": "forgekit.pin/1"}'])
def test_a_pin_that_cannot_be_read_is_an_error(data):
    with pytest.raises(SourceError, match="the pin"):
        Pin.parse(data, "x")


@pytest.fixture
def catalog(tmp_path):
    return Catalog(small_catalog(tmp_path))


def test_entries_are_found_by_name_in_order(catalog):
    assert catalog.names() == [
        "counterexamples/cheating-samples",
        "counterexamples/inflated-score",
        "counterexamples/tampered-weights",
        "forgekit/ember-moe-tiny",
        "forgekit/ember-moe-tiny-packaged",
        "forgekit/quiet-dense-tiny",
    ]
    assert [entry.name for entry in catalog.entries()] == catalog.names()


def test_a_pinned_listing_tells_what_was_published_and_is_not_here(catalog):
    entry = catalog.entry("forgekit/ember-moe-tiny")
    (entry.root / "model.safetensors").unlink()

    with pytest.raises(UnreachableError, match=r"model\.safetensors is published and not pinned here"):
        entry.fetch("model.safetensors")
    assert entry.listing()["model.safetensors"].sha256


def test_a_pinned_listing_tells_what_was_never_published(catalog):
    with pytest.raises(AbsentError, match=r"none\.jsonl was not published at"):
        catalog.entry("forgekit/ember-moe-tiny").fetch("none.jsonl")


def test_without_a_pin_nothing_is_said_of_what_is_missing(catalog):
    entry = catalog.entry("forgekit/ember-moe-tiny")
    (entry.root / PIN_NAME).unlink()

    with pytest.raises(UnreachableError, match="no pin says whether it was published"):
        catalog.entry("forgekit/ember-moe-tiny").fetch("none.jsonl")


def test_a_broken_entry_does_not_hide_the_others(catalog):
    (catalog.root / "forgekit" / "ember-moe-tiny" / PIN_NAME).write_text("{")

    entries = list(catalog.entries())

    assert [type(entry) for entry in entries].count(Broken) == 1
    assert len(entries) == 6


@pytest.mark.parametrize("name", ["../outside", "none", "/etc"])
def test_an_entry_is_inside_the_catalog_or_is_none(catalog, name):
    with pytest.raises(AbsentError, match="has no entry"):
        catalog.entry(name)


def test_putting_an_entry_replaces_it_whole(catalog):
    with catalog.stage("forgekit/quiet-dense-tiny") as stage:
        write_alloy(stage, an_alloy())
        catalog.put("forgekit/quiet-dense-tiny", stage)

    assert sorted(path.name for path in (catalog.root / "forgekit/quiet-dense-tiny").iterdir()) == ["ember.alloy.json"]
    assert not list(catalog.root.glob(".*"))


def test_a_put_that_was_interrupted_after_moving_the_old_entry_is_undone(catalog):
    entry = catalog.root / "forgekit/quiet-dense-tiny"
    before = sorted(path.name for path in entry.iterdir())
    entry.rename(catalog.root / ".old-forgekit--quiet-dense-tiny")

    catalog.recover()

    assert sorted(path.name for path in entry.iterdir()) == before


def test_a_put_that_was_interrupted_before_clearing_up_is_finished(catalog):
    shutil.copytree(catalog.root / "forgekit/quiet-dense-tiny", catalog.root / ".old-forgekit--quiet-dense-tiny")

    catalog.recover()

    assert not list(catalog.root.glob(".old-*"))
    assert (catalog.root / "forgekit/quiet-dense-tiny").is_dir()


def test_a_stage_that_is_not_put_leaves_nothing(catalog):
    with catalog.stage("a/b") as stage:
        (stage / "half").write_text("x")

    assert not list(catalog.root.glob(".stage-*"))


def test_listing_shows_name_hash_and_pin(catalog):
    ran = forgekit("catalog", "list", "--catalog", catalog.root, "--json")

    rows = {row["name"]: row for row in ran.json["entries"]}
    assert len(rows) == 6
    pin = json.loads((EMBEDDED / "forgekit/ember-moe-tiny" / PIN_NAME).read_bytes())
    assert rows["forgekit/ember-moe-tiny"]["alloyHash"] == pin["alloyHash"].removeprefix("sha256:")[:16]
    assert rows["forgekit/ember-moe-tiny"]["revision"] == pin["revision"]


def test_a_catalog_that_is_not_there_is_bad_input(tmp_path):
    ran = forgekit("catalog", "list", "--catalog", tmp_path / "none")

    assert (ran.code, ran.err) == (2, f"error: there is no such catalog\n  in   {tmp_path / 'none'}\n")
