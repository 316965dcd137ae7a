"""The checks that run things: confirmed for what was forged, refuted where it was tampered with, unchecked without."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from forgekit import alloy
from forgekit.checks import Settings
from forgekit.findings import Verdict
from forgekit.sources.folder import FolderSource
from forgekit.verify import verify
from tests.support.forged import CORPUS, TRAIN, cut_experts, recipe
from tests.support.models import forge_it
from tests.support.running import python

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("forged")
C, R, P, U = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED
RAN = {"reforge", "stage-output", "surgery-proof", "perplexity", "code", "file-hash"}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    from tests.support.forged import write_recipe

    folder = tmp_path_factory.mktemp("published")
    path = write_recipe("mixtral-aimer", folder / "recipe")
    tree = recipe("mixtral-aimer")
    pinned = tree["calibrationCorpora"][0]["sha256"]
    tree["stages"] = [*cut_experts("activation_count"), TRAIN]
    tree["perplexityCorpus"] = {"name": "words", "path": CORPUS, "contentHash": f"sha256:{pinned}"}
    path.write_bytes(alloy.write(tree))
    return forge_it(path, folder / "out").folder


@pytest.fixture
def artifact(published, tmp_path):
    shutil.copytree(published, tmp_path / "artifact")
    return tmp_path / "artifact"


def found(folder, **settings):
    report = verify(FolderSource(folder), Settings(offline=True, **settings))
    assert report.error is None
    return {finding.claim.pointer: finding for finding in report.findings if finding.claim.kind in RAN}


def change(folder, edit):
    (path,) = folder.glob("*.alloy.json")
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_bytes(alloy.write(tree))


def test_everything_that_was_forged_is_confirmed(artifact):
    findings = found(artifact)

    assert Counter(finding.verdict for finding in findings.values()) == {C: len(findings)}
    assert {finding.claim.kind for finding in findings.values()} == RAN
    assert findings["/source/baseModel"].evidence["grade"] == "bitwise"


def test_a_model_hash_that_the_recipe_does_not_give_is_refuted(artifact):
    def edit(tree):
        tree["results"]["integrity"]["modelHash"] = "sha256:" + "0" * 64
        tree["results"]["stages"][1]["outputHash"] = "sha256:" + "0" * 64

    change(artifact, edit)

    findings = found(artifact)
    assert findings["/source/baseModel"].verdict is R
    assert "stage 1 (expert-prune) is exact and gave other bytes" in findings["/source/baseModel"].reason
    assert findings["/results/stages/1/outputHash"].verdict is R
    assert findings["/results/stages/0/outputHash"].verdict is C


def test_a_recipe_that_was_edited_after_the_run_is_refuted(artifact):
    change(artifact, lambda tree: tree["stages"][1].update(keepExpertsPerLayer=5))

    findings = found(artifact)
    assert findings["/source/baseModel"].verdict is R


def test_a_recipe_that_cannot_run_at_all_is_refuted(artifact):
    change(artifact, lambda tree: tree["stages"][1].update(keepExpertsPerLayer=9))

    findings = found(artifact)
    assert findings["/source/baseModel"].verdict is R
    assert "keeping 9 of 8" in findings["/source/baseModel"].reason


def test_a_proof_of_a_surgery_that_was_not_done_is_refuted(artifact):
    def edit(tree):
        tree["results"]["stages"][2]["proof"] = tree["results"]["stages"][1]["proof"]

    change(artifact, edit)

    assert found(artifact)["/results/stages/2/proof"].verdict is R


def test_a_surgery_that_was_not_proven_is_unproven(artifact):
    change(artifact, lambda tree: tree["results"]["stages"][1].update(proof={"skipped": "in a hurry"}))

    assert found(artifact)["/results/stages/1/proof"].verdict is P


def test_a_perplexity_that_is_not_measured_again_is_refuted(artifact):
    change(artifact, lambda tree: tree["results"].update(finalPerplexity=12.5))

    findings = found(artifact)
    assert findings["/results/finalPerplexity"].verdict is R
    assert findings["/results/baselinePerplexity"].verdict is C


def test_tampered_evidence_is_refuted_by_its_hash(artifact):
    path = artifact / "forge/03-train/adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert found(artifact)["/results/stages/2/files/1/sha256"].verdict is R


def test_another_forgekit_is_unchecked_and_not_refuted(artifact):
    change(artifact, lambda tree: tree["results"]["integrity"]["code"].update(binaryHash="sha256:" + "1" * 64))

    assert found(artifact)["/results/integrity/code/binaryHash"].verdict is U


def test_a_base_that_is_not_here_is_unchecked(artifact):
    change(artifact, lambda tree: tree["source"].update(baseModel="nobody/nothing", revision="1" * 40))

    findings = found(artifact)
    for pointer in ("/source/baseModel", "/results/stages/1/outputHash", "/results/stages/1/proof"):
        assert findings[pointer].verdict is U
        assert "'nobody/nothing' cannot be had" in findings[pointer].reason


def test_a_base_too_large_to_run_unasked_is_unchecked(artifact):
    assert "more than is run again unasked" in found(artifact, reforge_limit=1000)["/source/baseModel"].reason


def test_a_recipe_that_asks_for_years_is_stopped_and_unchecked(artifact):
    change(artifact, lambda tree: tree["stages"][2].update(steps=10**9))

    finding = found(artifact, reforge_seconds=4.0)["/source/baseModel"]
    assert finding.verdict is U
    assert "takes more than the 4 s that are spent unasked" in finding.reason


def test_a_missing_corpus_is_no_pass(artifact):
    (artifact / CORPUS).unlink()

    finding = found(artifact)["/source/baseModel"]
    assert finding.verdict is not C
    assert "corpus 'words' is not at" in finding.reason


WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "transformers") else real(name, *rest)
sys.meta_path.insert(0, Gone())
from pathlib import Path
from forgekit.checks import Settings
from forgekit.sources.catalog import Catalog
from forgekit.verify import verify
for name in ("minis/mixtral-aimer", "minis/olmoe-reap"):
    report = verify(Catalog(Path("_cache")).entry(name), Settings(offline=True), tiers=[2])
    for finding in report.findings:
        print(name, finding.claim.kind, finding.verdict.value, finding.reason)
"""


def test_without_torch_exact_recipes_are_still_forged_and_the_rest_says_what_is_missing():
    ran = python(WITHOUT)
    lines = ran.out.splitlines()

    assert ran.code == 0, ran.err
    assert "minis/mixtral-aimer reforge confirmed bitwise: the recipe gives the published bytes" in lines
    assert any(line.startswith("minis/mixtral-aimer surgery-proof unchecked loads: torch and trans") for line in lines)
    assert "minis/olmoe-reap reforge unchecked transformers is not installed" in lines
    assert not [line for line in lines if " refuted " in line]
