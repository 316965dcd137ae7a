"""A forge keeps its chain: what is lost by hand is named, and nothing broken is published."""

from __future__ import annotations

import json
import shutil

import pytest

from forgekit.digest import Digest
from forgekit.errors import PlanError
from forgekit.forge.executor import Settings
from forgekit.store.objects import key_of
from tests.support.models import a_recipe, base, forge_it
from tests.support.running import forgekit, within

pytestmark = pytest.mark.xdist_group("keeping")
CHAIN = [
    {"type": "prune", "strategy": "magnitude", "level": 0.25},
    {"type": "prune", "strategy": "magnitude", "level": 0.25, "retention": "until-superseded-and-attested"},
    {"type": "publish", "org": "forgekit"},
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with one published chain, and its artifact."""
    folder = tmp_path_factory.mktemp("kept")
    recipe = a_recipe("qwen2", CHAIN, folder / "recipe")
    ran = forgekit(
        "forge", recipe, "--base", base("qwen2"), "--out", folder / "out", "--store", folder / "store", "--json"
    )
    assert ran.code == 0, ran.err
    return folder / "store", folder / "out", ran.json


@pytest.fixture
def store(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "store")


def alloy_in(folder):
    return next(folder.glob("*.alloy.json"))


def test_the_chain_stands_whole_and_the_alloy_says_where_each_stage_came_from(kept):
    store, out, told = kept

    audit = within("store", "audit", "--store", store, "--verify", "--json")

    assert audit.code == 0
    (chain,) = audit.json["chains"]
    assert (chain["stages"], chain["published"], chain["verdict"]) == (4, True, "sound")
    rows = json.loads(alloy_in(out).read_text())["results"]["stages"]
    assert [row["retention"] for row in rows] == ["permanent", "until-superseded-and-attested", "permanent"]
    assert rows[1]["parentArtifactHash"] == rows[0]["artifactHash"]
    assert rows[1]["artifactHash"] == told["modelHash"]


def test_an_intermediate_deleted_by_hand_is_named_and_publishing_refused_until_it_is_restored(kept, store):
    link = kept[2]["chain"]
    middle = Digest.parse(json.loads(alloy_in(kept[1]).read_text())["results"]["stages"][0]["artifactHash"])
    shown = within("store", "get", middle, "--raw", "--to", store.parent / "manifest", "--store", store)
    assert shown.code == 0
    (shard,) = json.loads((store.parent / "manifest").read_text())
    (store / key_of(Digest.parse(shard["sha256"]))).unlink()

    audit = within("store", "audit", "--store", store)
    assert audit.code == 1
    assert shard["sha256"] in audit.out
    assert "prune" in audit.out
    refused = within("store", "publish", "again", link, "--store", store)
    assert refused.code == 2
    assert "the chain is broken and is not published" in refused.err

    assert within("store", "restore", "--from", kept[0], "--store", store).code == 0

    assert within("store", "audit", "--store", store, "--verify").code == 0
    assert within("store", "publish", "again", link, "--store", store).code == 0


def test_nothing_of_a_published_chain_is_collected(store):
    before = sorted(path for path in (store / "objects").rglob("*") if path.is_file())

    assert within("store", "gc", "--confirm", "--store", store).code == 0

    assert sorted(path for path in (store / "objects").rglob("*") if path.is_file()) == before
    assert within("store", "audit", "--store", store, "--verify").code == 0


def test_an_alloy_edited_after_the_run_is_told_from_what_the_run_wrote(kept, tmp_path):
    store, out, told = kept
    assert within("store", "edits", alloy_in(out), told["chain"], "--store", store).code == 0
    tree = json.loads(alloy_in(out).read_text())
    tree["stages"][0]["level"] = 0.5
    edited = tmp_path / "edited.alloy.json"
    edited.write_text(json.dumps(tree))

    ran = within("store", "edits", edited, told["chain"], "--store", store)

    assert ran.code == 1
    assert "/stages/0/level is 0.5; the run wrote 0.25" in ran.out


def test_the_recipe_is_kept_under_its_name_and_version(kept):
    ran = within("store", "recipes", "--store", kept[0], "--json")

    (row,) = ran.json["recipes"]
    assert row["recipe"].count("@") == 1


def test_a_published_chain_cannot_end_in_an_ephemeral_stage(tmp_path):
    chain = [CHAIN[0] | {"retention": "ephemeral"}, CHAIN[2]]

    with pytest.raises(PlanError, match="a published chain cannot end in an ephemeral stage"):
        forge_it(a_recipe("qwen2", chain, tmp_path / "r"), tmp_path / "out")


def test_forged_again_the_chain_is_the_same(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    links = set()
    for name in ("one", "two"):
        recipe = a_recipe("qwen2", CHAIN, tmp_path / name / "recipe")
        made = forge_it(recipe, tmp_path / name / "out", store=str(store))
        links.add(made.chain)

    assert len(links) == 1
    assert Settings().store == "", "without a store nothing is kept"
