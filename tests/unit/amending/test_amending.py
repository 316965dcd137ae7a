"""What is said of an artifact is put right, shown before it is done, done whole, and done once."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from forgekit import alloy, tiny
from forgekit.alloy.pointer import find
from forgekit.amending.difference import difference
from forgekit.amending.migrate import migrate
from forgekit.digest import sha256_file
from forgekit.families import FAMILIES
from forgekit.report.card import carded
from forgekit.sources.folder import FolderSource
from tests.support.hub import Hub, repo_of, serving
from tests.support.models import base
from tests.support.published import CATALOG, folder
from tests.support.running import EMBEDDED, forgekit, within

EMBER = "forgekit/ember-moe-tiny"
LEGACY = {
    "model": "lab/base-0.5B",
    "strategy": "combined",
    "pruning_level": 0.3,
    "domain": "general",
    "training_data": "wikitext-2",
    "training_steps": 1000,
    "learning_rate": "2e-4",
    "cycles": 3,
    "baseline_ppl": 2.83,
    "final_ppl": 2.92,
    "improvement_pct": -3.18,
    "hardware_targets": [{"device": "Phone", "format": "Q4_K_M", "verified": False}],
    "forged_at": "2026-03-27T08:22:03-05:00",
}
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def ember(tmp_path):
    return shutil.copytree(EMBEDDED / EMBER, tmp_path / "ember-moe-tiny")


@pytest.fixture
def legacy(tmp_path):
    folder = shutil.copytree(base("qwen2"), tmp_path / "old-forged")
    (folder / "forging_results.json").write_text(json.dumps(LEGACY))
    return folder


def the_alloy(folder):
    (path,) = folder.glob("*.alloy.json")
    return path


def edited(folder, out, edit):
    tree = json.loads(the_alloy(folder).read_text())
    edit(tree)
    out.write_bytes(alloy.write(tree))
    return out


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(trees, trees)
def test_two_documents_differ_where_and_only_where_a_field_differs(one, other):
    found = difference(one, other)

    assert (found == []) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
    for change in found:
        if change.kind != "added":
            assert find(one, change.pointer, "?") == change.before
        if change.kind != "removed":
            assert find(other, change.pointer, "?") == change.after


def test_a_legacy_results_file_becomes_an_alloy_that_promises_nothing_it_cannot_keep(legacy):
    shown = within("backfill", legacy)
    assert shown.code == 0
    assert "nothing was written; say --confirm" in shown.out
    assert not list(legacy.glob("*.alloy.json"))

    assert within("backfill", legacy, "--confirm").code == 0

    tree = json.loads(the_alloy(legacy).read_text())
    assert [stage["type"] for stage in tree["stages"]] == ["prune", "train"]
    assert tree["stages"][0]["strategy"] == "magnitude"
    assert tree["results"]["finalPerplexity"] == 2.92
    assert tree["results"]["integrity"]["fileHashes"][0]["sha256"] == sha256_file(legacy / "model.safetensors").hex
    assert "code" not in tree["results"]["integrity"], "nothing stands in for a hash that nobody took"
    checked = within("verify", legacy, "--offline", "--tier", "3", "--json")
    verdicts = {row["verdict"] for artifact in checked.json["artifacts"] for row in artifact["findings"]}
    assert "refuted" not in verdicts
    again = within("backfill", legacy)
    assert again.code == 2
    assert "has an alloy already" in again.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": None}, "does not say which model was forged"),
        ({"strategy": "dowsing"}, "strategy 'dowsing' is none that pruned heads"),
        ({"pruning_level": None, "training_steps": 0}, "names no stage that was run"),
    ],
)
def test_a_results_file_that_says_too_little_is_refused(change, says, legacy):
    (legacy / "forging_results.json").write_text(json.dumps(LEGACY | change))

    ran = within("backfill", legacy, "--confirm")

    assert ran.code == 2
    assert says in ran.err
    assert not list(legacy.glob("*.alloy.json"))


def test_without_training_steps_no_training_is_claimed(legacy):
    (legacy / "forging_results.json").write_text(json.dumps(LEGACY | {"training_steps": 0}))

    within("backfill", legacy, "--confirm")

    tree = json.loads(the_alloy(legacy).read_text())
    assert [stage["type"] for stage in tree["stages"]] == ["prune"]
    assert any("no training is listed" in text for text in tree["limitations"])


def test_a_derived_artifact_names_its_parent_by_hash_and_inherits_no_samples(ember, tmp_path):
    child = tmp_path / "ember-gguf"
    child.mkdir()
    tiny.write(FAMILIES["qwen2"], tmp_path / "weights")
    from tests.support.gguf import gguf_bytes

    (child / "ember-Q8_0.gguf").write_bytes(gguf_bytes([("t", (2, 2))], [("general.file_type", 4, b"\7\0\0\0")]))
    parent = alloy.read_file(the_alloy(ember))

    ran = within("derive", child, "--from", ember, "--kind", "gguf", "--confirm", "--json")

    assert ran.code == 0
    tree = json.loads(the_alloy(child).read_text())
    assert tree["derivedFrom"] == {"repo": "ember-moe-tiny", "alloyHash": str(parent.hash), "kind": "gguf"}
    assert tree["results"]["integrity"]["parentAlloyHash"] == str(parent.hash)
    assert tree["stages"][:-1] == parent.tree["stages"]
    assert tree["stages"][-1] == {"type": "quant", "format": "gguf", "quantTypes": ["Q8_0"]}
    assert tree["tags"] == sorted(tree["tags"])
    for row in tree["results"].get("benchmarks", []):
        assert row["inheritedFrom"] == "ember-moe-tiny"
        assert "resultHash" not in row
    assert within("derive", child, "--from", ember, "--kind", "gguf").out.startswith("nothing changes")


@pytest.mark.parametrize(
    ("kind", "says"), [("gguf", "there is no *.gguf"), ("onnx", "there is no kind 'onnx'")], ids=["no files", "no kind"]
)
def test_what_cannot_be_derived_is_refused(kind, says, ember, tmp_path):
    child = tmp_path / "child"
    child.mkdir()

    ran = within("derive", child, "--from", ember, "--kind", kind, "--confirm")

    assert ran.code == 2
    assert says in ran.err
    assert list(child.iterdir()) == []


def test_a_correction_changes_the_alloy_and_nothing_else(ember, tmp_path):
    before = snapshot(ember)
    new = edited(ember, tmp_path / "new.json", lambda tree: tree.update(description="Said better."))

    shown = within("republish", ember, "--alloy", new)
    assert "~ /description" in shown.out
    assert snapshot(ember) == before

    assert within("republish", ember, "--alloy", new, "--confirm").code == 0

    after = snapshot(ember)
    assert {path for path in after if after[path] != before.get(path)} == {the_alloy(ember).name}
    again = within("republish", ember, "--alloy", new, "--confirm")
    assert again.code == 2
    assert "nothing changes" in again.err


def test_a_score_that_changes_is_marked_with_what_stood_there_and_why(ember, tmp_path):
    old = json.loads(the_alloy(ember).read_text())["results"]["benchmarks"][0]["score"]
    new = edited(ember, tmp_path / "new.json", lambda tree: tree["results"]["benchmarks"][0].update(score=old - 1))

    silent = within("republish", ember, "--alloy", new, "--confirm")
    assert silent.code == 2
    assert "nothing says why" in silent.err

    within("republish", ember, "--alloy", new, "--reason", "counted twice", "--confirm")

    row = json.loads(the_alloy(ember).read_text())["results"]["benchmarks"][0]
    assert row["scoreCorrection"]["previousValue"] == old
    assert row["scoreCorrection"]["reason"] == "counted twice"
    assert within("republish", ember, "--alloy", new).code == 2, "the same correction twice changes nothing"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t["results"]["integrity"].update(modelHash="sha256:" + "0" * 64), "modelHash changes"),
        (lambda t: t["results"].pop("benchmarks"), "may not drop what was claimed"),
        (lambda t: t["results"].pop("integrity"), "modelHash changes"),
        (lambda t: t.update(name="another"), "it is the alloy of 'another'"),
        (lambda t: t["results"]["integrity"]["fileHashes"][0].update(sha256="0" * 64), "the hash of"),
    ],
)
def test_a_correction_that_is_none_is_refused(edit, says, ember, tmp_path):
    before = snapshot(ember)

    ran = within("republish", ember, "--alloy", edited(ember, tmp_path / "new.json", edit), "--confirm")

    assert ran.code == 2
    assert says in ran.err
    assert snapshot(ember) == before


def test_missing_hashes_are_taken_and_wrong_ones_are_left_to_be_found(ember):
    def forget(tree):
        tree["results"]["benchmarks"][0].pop("resultHash", None)

    kept = json.loads(the_alloy(ember).read_text())["results"]["benchmarks"][0]["resultHash"]
    edited(ember, the_alloy(ember), forget)

    assert within("migrate", ember, "--confirm").code == 0

    assert json.loads(the_alloy(ember).read_text())["results"]["benchmarks"][0]["resultHash"] == kept
    assert within("migrate", ember).out.startswith("nothing changes")
    edited(ember, the_alloy(ember), lambda t: t["results"]["integrity"].update(modelHash="sha256:" + "1" * 64))
    wrong = within("migrate", ember, "--confirm")
    assert wrong.code == 2
    assert "a migration would hide it" in wrong.err


@pytest.mark.parametrize(("stated", "code"), [("sha256:not-computed", 0), ("sha256:abc123", 2)])
def test_words_in_place_of_a_hash_give_way_and_a_cut_hash_does_not(stated, code, ember):
    edited(ember, the_alloy(ember), lambda t: t["results"]["integrity"].update(modelHash=stated))

    assert within("migrate", ember, "--confirm").code == code


def test_a_convention_s_new_hash_must_be_the_one_its_files_give(ember, tmp_path):
    wrong = edited(ember, tmp_path / "n", lambda t: t["results"]["integrity"].update(modelHash="sha256:" + "0" * 64))

    ran = within("republish", ember, "--alloy", wrong, "--convention-migration", "--confirm")

    assert ran.code == 2
    assert "is not what its files give by today's convention" in ran.err


def test_a_hash_of_the_single_file_becomes_the_manifest_s(legacy):
    within("backfill", legacy, "--confirm")
    kept = json.loads(the_alloy(legacy).read_text())["results"]["integrity"]["modelHash"]
    file = sha256_file(legacy / "model.safetensors")
    edited(legacy, the_alloy(legacy), lambda t: t["results"]["integrity"].update(modelHash=str(file)))

    ran = within("migrate", legacy, "--confirm", "--json")

    assert [change["pointer"] for change in ran.json["changes"]] == ["/results/integrity/modelHash"]
    assert json.loads(the_alloy(legacy).read_text())["results"]["integrity"]["modelHash"] == kept


def test_a_repository_gets_all_files_in_one_commit_or_none(ember, tmp_path):
    repo = repo_of(ember)
    with serving(Hub(repos={EMBER: repo})) as hub:
        environment = hub.environment(tmp_path, HF_TOKEN=hub.token)
        first = repo.commit
        assert forgekit("card", EMBER, env=environment).code == 0
        assert repo.commit == first

        made = forgekit("card", EMBER, "--confirm", env=environment)
        assert made.code == 0, made.err
        assert {"README.md", "alloy-qr.png"} <= repo.files.keys()
        assert sum(count for request, count in hub.seen.items() if "/commit/" in request) == 1
        assert forgekit("card", EMBER, "--confirm", env=environment).out.startswith("nothing changes")
        told = forgekit("verify", f"hf://{EMBER}", "--tier", "3", "--json", env=environment).json
        (card,) = [row for row in told["artifacts"][0]["findings"] if row["kind"] == "card-hash"]
        assert card["verdict"] == "confirmed"

        before = dict(repo.files)
        new = edited(ember, tmp_path / "new.json", lambda tree: tree.update(description="Said better."))
        for fault, says in ((412, "somebody else has committed meanwhile"), (403, "does not let you write")):
            hub.faults = {"/commit/": [fault]}
            refused = forgekit("republish", EMBER, "--alloy", new, "--confirm", env=environment)
            assert refused.code == 2
            assert says in refused.err
            assert repo.files == before
        nobody = forgekit("republish", EMBER, "--alloy", new, "--confirm", env=hub.environment(tmp_path))
        assert nobody.code == 2
        assert repo.files == before


def test_published_alloys_need_no_migration_and_give_a_card_each(tmp_path):
    published = copy_of(folder(CATALOG), tmp_path)

    for source in map(FolderSource, published):
        now = source.alloy()
        assert migrate(source, now, source.alloy_name).files == {}
        card = ModelCard(carded(source, now, source.alloy_name).after["README.md"].decode())
        assert card.data.base_model == now.at("/source/baseModel")
        assert (card.data.eval_results is None) == (not [r for r in now.at("/results/benchmarks", []) if "score" in r])


def copy_of(catalog, tmp_path):
    return [
        shutil.copytree(path.parent, tmp_path / path.parent.name) for path in sorted(catalog.glob("*/*/*alloy.json"))
    ]
