"""Only a score that was confirmed is attested, and the statement says how it was reproduced and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from forgekit.attest import evaluation, merkle
from forgekit.attest.eval_results import KNOWN, HubDataset, entry
from forgekit.benchmarks import BENCHMARKS, ScoreSettings
from forgekit.checks import Settings
from forgekit.errors import AttestationError
from forgekit.findings import Verdict
from forgekit.sources.folder import FolderSource
from forgekit.verify import verify
from tests.support.running import EMBEDDED

pytestmark = pytest.mark.xdist_group("evaluation")  # scored once
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
EMBER = EMBEDDED / "forgekit" / "ember-moe-tiny"
SAMPLES = (EMBER / "eval" / "forgekit_mini" / "student_samples.jsonl").read_bytes()


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    settings = Settings(offline=True, score=ScoreSettings(cache=tmp_path_factory.mktemp("cache")))
    report = verify(FolderSource(EMBER), settings, tiers=(4,), only=lambda claim: claim.kind == "score")
    return {finding.claim.pointer.rsplit("/", 1)[-1]: finding for finding in report.findings}


@pytest.fixture
def own(findings):
    return findings["score"]


def made(finding, samples=SAMPLES):
    return json.loads(evaluation.evaluation(FolderSource(EMBER).alloy(), finding, samples, at=AT))


def test_a_confirmed_score_is_stated_with_all_that_reproduces_it(own):
    tree = made(own)

    predicate = tree["predicate"]
    assert tree["predicateType"] == evaluation.PREDICATE
    assert {row["name"] for row in tree["subject"]} == {"model.safetensors", "ember-moe-tiny.alloy.json"}
    assert predicate["assuranceLevel"] == "reproduced"
    assert "the model was not run" in predicate["meaning"]
    assert predicate["verdicts"] == {"passed": 21, "notPassed": 3, "unstable": 0, "total": 24}
    assert predicate["samples"]["merkleRoot"] == str(merkle.root(merkle.lines(SAMPLES)))
    assert predicate["samples"]["records"] == 24
    assert predicate["dataset"]["sha256"].startswith("sha256:f0a58da385")
    assert predicate["benchmark"]["claimed"] == 87.5
    assert predicate["harness"]["name"] == "forgekit"
    assert predicate["attestedAt"] == "2026-11-21T12:00:00Z"


@pytest.mark.parametrize("verdict", [Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED])
def test_what_is_not_confirmed_is_not_attested_and_the_reason_is_said(own, verdict):
    other = replace(own, verdict=verdict, reason="because")

    with pytest.raises(AttestationError, match=f"it is {verdict.value}: because"):
        made(other)


def test_a_finding_that_is_no_score_of_this_artifact_is_not_attested(own, findings):
    with pytest.raises(AttestationError, match="another model"):
        made(findings["baseScore"])
    with pytest.raises(AttestationError, match="it is no score"):
        made(replace(own, claim=replace(own.claim, tier=3)))
    with pytest.raises(AttestationError, match="says too little"):
        made(replace(own, evidence={}))


def test_other_samples_than_those_scored_are_not_attested(own):
    with pytest.raises(AttestationError, match="not the samples that were scored"):
        made(own, SAMPLES + b"\n")


def test_the_entry_for_the_hub_is_one_that_its_own_client_reads(own):
    text = entry(made(own)["predicate"], HubDataset.parse("forgekit/mini#all"), "https://example.org/x: y#z")

    (read,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (read.dataset_id, read.task_id, read.value) == ("forgekit/mini", "all", 87.5)
    assert (read.date, read.source_url) == ("2026-11-21T12:00:00Z", "https://example.org/x: y#z")
    assert read.verify_token is None
    assert read.notes.startswith("21/24 pass@1 by evalplus-0.3.1; published samples re-scored by forgekit")


def test_data_sets_of_the_hub_are_named_by_benchmarks_that_exist():
    assert set(KNOWN) <= set(BENCHMARKS)
    assert HubDataset.parse("a/b") == HubDataset("a/b", "default")
    with pytest.raises(AttestationError, match="no data set of the Hub"):
        HubDataset.parse("a")
