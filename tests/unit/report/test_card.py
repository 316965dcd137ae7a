"""The model card, read as a person and as the Hub read it."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from forgekit import alloy
from forgekit.report.card import carded, plain
from forgekit.sources.folder import FolderSource
from tests.support.running import EMBEDDED, within

EMBER = "forgekit/ember-moe-tiny"


@pytest.fixture
def ember(tmp_path):
    return shutil.copytree(EMBEDDED / EMBER, tmp_path / "ember-moe-tiny")


def card_of(folder):
    source = FolderSource(folder)
    now = source.alloy()
    return carded(source, now, source.alloy_name)


def test_the_hub_reads_its_metadata_and_every_score(ember):
    tree = json.loads(next(ember.glob("*.alloy.json")).read_text())

    card = ModelCard(card_of(ember).after["README.md"].decode())

    rows = tree["results"]["benchmarks"]
    assert card.data.license == tree["license"]
    assert card.data.base_model == tree["source"]["baseModel"]
    assert [(row.dataset_type, row.metric_value) for row in card.data.eval_results] == [
        (row["name"], row["score"]) for row in rows if isinstance(row.get("score"), int | float)
    ]


def test_it_says_what_each_score_stands_on_and_how_to_check(ember):
    text = card_of(ember).after["README.md"].decode()

    assert "| what anyone can check |" in text
    assert "score: samples, hashed" in text
    assert "forgekit verify hf://forgekit/ember-moe-tiny" in text
    assert "## Limitations" not in text, "it states none"


def test_card_and_alloy_hold_each_other_and_a_changed_card_is_refuted(ember):
    assert within("card", ember, "--confirm").code == 0
    assert within("card", ember).out.startswith("nothing changes")

    def verdict():
        told = within("verify", ember, "--offline", "--tier", "3", "--json").json
        return next(r["verdict"] for a in told["artifacts"] for r in a["findings"] if r["kind"] == "card-hash")

    assert verdict() == "confirmed"
    (ember / "README.md").write_bytes((ember / "README.md").read_bytes().replace(b"confirmed", b"CONFIRMED", 1))
    assert verdict() == "refuted"


def test_a_hostile_alloy_writes_no_markup_into_the_card(ember):
    path = next(ember.glob("*.alloy.json"))
    tree = json.loads(path.read_text())
    tree["userSummary"] = "<script>alert(1)</script>"
    tree["limitations"] = ["a\n\n# heading <img src=x>"]
    tree["results"]["benchmarks"][0]["name"] = "x | [y](javascript:z)"
    tree["tags"] = ["ok", 3, "a: b\n- c"]
    path.write_bytes(alloy.write(tree))

    text = card_of(ember).after["README.md"].decode()

    assert "<script>" not in text
    assert "<img" not in text
    assert "\n# heading" not in text
    assert "| x \\| \\[y\\](javascript:z) |" in text
    assert ModelCard(text).data.tags == sorted(["ok", "a: b\n- c"])


def test_text_stays_text():
    assert plain("a*b_c`d`\x1b[31m") == "a\\*b\\_c\\`d\\`�\\[31m"
