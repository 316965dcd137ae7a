"""The embedded catalog is what its seeds make, and shows every verdict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from forgekit import alloy
from forgekit.families import FAMILIES
from forgekit.stages import STAGES
from tests.support import embedded, forged
from tests.support.running import EMBEDDED, forgekit


def files(folder: Path):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_catalog_is_made_from_its_seeds_to_the_same_bytes(tmp_path):
    embedded.build(tmp_path)

    assert files(tmp_path) == {path: data for path, data in files(EMBEDDED).items() if not path.startswith("minis/")}


def test_there_is_a_mini_for_every_recipe_and_it_carries_what_was_authored():
    assert {path.name for path in (EMBEDDED / "minis").iterdir()} == set(forged.RECIPES)
    for name in forged.RECIPES:
        tree = alloy.read_file(EMBEDDED / "minis" / name / f"{name}.alloy.json").tree
        assert {key: value for key, value in tree.items() if key != "results"} == forged.recipe(name)


def test_the_minis_cover_every_family_and_every_stage_that_is_forged():
    families = {family for family, _, _ in forged.RECIPES.values()}
    stages = {stage["type"] for _, rows, _ in forged.RECIPES.values() for stage in rows}

    assert families == set(FAMILIES)
    assert stages >= {name for name, stage in STAGES.items() if stage.run} - {"deploy", "deliver"}


pytestmark = pytest.mark.xdist_group("embedded")


@pytest.fixture(scope="module")
def report():
    ran = forgekit("verify", "--all", "--catalog", EMBEDDED, "--json")
    assert ran.code == 0, "what is refuted here is on the list of known gaps"
    return ran.json


def verdicts(report, artifact):
    (found,) = (entry for entry in report["artifacts"] if entry["target"] == artifact)
    return Counter(finding["verdict"] for finding in found["findings"])


def test_every_verdict_is_shown(report):
    total = Counter(finding["verdict"] for entry in report["artifacts"] for finding in entry["findings"])

    assert set(total) == {"confirmed", "refuted", "unproven", "unchecked"}


@pytest.mark.parametrize("artifact", ["forgekit/ember-moe-tiny", "forgekit/ember-moe-tiny-packaged"])
def test_an_artifact_with_all_its_evidence_has_nothing_refuted(report, artifact):
    found = verdicts(report, artifact)

    assert found["refuted"] == 0
    assert found["confirmed"] > found["unproven"] + found["unchecked"]


def test_an_artifact_without_evidence_is_unproven_and_not_refuted(report):
    found = verdicts(report, "forgekit/quiet-dense-tiny")

    assert found["refuted"] == 0
    assert found["unproven"] > 3


def test_exactly_the_deliberate_lies_are_refuted(report):
    refuted = {
        finding["id"]
        for entry in report["artifacts"]
        for finding in entry["findings"]
        if finding["verdict"] == "refuted"
    }
    listed = [line.split('"')[1] for line in (EMBEDDED / "known-gaps.toml").read_text().splitlines() if "::" in line]

    assert refuted == set(listed)
    assert all(claim.startswith("counterexamples/") for claim in refuted)
