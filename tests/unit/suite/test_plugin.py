"""The pytest face, in sessions of its own: no verdict looks like another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from tests.support.running import EMBEDDED, forgekit, python, small_catalog, without_catalog

QUIET = EMBEDDED / "forgekit" / "quiet-dense-tiny"
EMBER = EMBEDDED / "forgekit" / "ember-moe-tiny"
TAMPERED = EMBEDDED / "counterexamples" / "tampered-weights"


@pytest.fixture
def session(tmp_path):
    """Run pytest on the installed suite, in a folder with no catalog."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")

    def run(*arguments, suite=True, env=None):
        return subprocess.run(
            [sys.executable, "-m", "pytest", *(["--pyargs", "forgekit.suite"] if suite else []), *map(str, arguments)],
            cwd=tmp_path,
            env=env or without_catalog(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def outcomes(done):
    """Outcome by claim, from the verbose listing."""
    lines = re.findall(r"\[(\S+?)\](?:@\S+)? (PASSED|FAILED|XFAIL|SKIPPED|ERROR)", done.stdout)
    return dict(lines)


def verdicts(target):
    report = forgekit("verify", target, "--json").json
    return {finding["id"]: finding["verdict"] for finding in report["artifacts"][0]["findings"]}


OUTCOME = {"confirmed": "PASSED", "refuted": "FAILED", "unproven": "XFAIL", "unchecked": "SKIPPED"}


@pytest.mark.parametrize("folder", [QUIET, TAMPERED], ids=lambda folder: folder.name)
def test_each_verdict_has_one_outcome(session, folder):
    found = outcomes(session("--alloy", folder, "-v"))

    assert found == {claim: OUTCOME[verdict] for claim, verdict in verdicts(folder).items()}


def test_a_refuted_claim_fails_with_the_whole_finding_and_how_to_see_it_again(session):
    done = session("--alloy", TAMPERED, "-q")

    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "refuted: " in done.stdout
    assert "because   model.safetensors is " in done.stdout
    assert "forgekit verify" in done.stdout
    assert "Traceback" not in done.stdout
    assert "def judge" not in done.stdout


def test_the_summary_counts_verdicts(session):
    done = session("--alloy", QUIET, "-q")

    assert "8 confirmed, 0 refuted, 10 unproven, 0 unchecked · 44% of 18 claims confirmed" in done.stdout


def test_reasons_of_what_is_not_confirmed_can_be_read(session):
    done = session("--alloy", EMBER, "-ra", "-q")

    assert "nobody answers for it" in done.stdout
    assert "signature: sign the attestation" in done.stdout


def test_unproven_can_be_made_to_fail(session):
    done = session("--alloy", QUIET, "--unproven", "fail", "-q")

    assert done.returncode == 1
    assert "10 failed, 8 passed" in done.stdout


@pytest.mark.parametrize(
    ("marker", "count"), [("tier1", 12), ("tier2", 1), ("tier3", 14), ("tier4", 2), ("runtime", 2)]
)
def test_a_tier_can_be_run_alone(session, marker, count):
    assert len(outcomes(session("--alloy", EMBER, "-m", marker, "-v"))) == count


def test_claims_are_test_ids_that_k_understands(session):
    found = outcomes(session("--alloy", EMBER, "-k", "modelHash", "-v"))

    assert [claim.rpartition("::")[2] for claim in found] == ["/results/integrity/modelHash"]


def test_several_artifacts_are_one_session(session):
    found = outcomes(session("--alloy", EMBER, "--alloy", QUIET, "-m", "tier1", "-v"))

    assert len({claim.partition("::")[0] for claim in found}) == 2


def test_workers_find_what_one_process_finds(session):
    serial = outcomes(session("--alloy", TAMPERED, "--alloy", QUIET, "-v"))
    parallel = session("--alloy", TAMPERED, "--alloy", QUIET, "-v", "-n", "2")
    grouped = session("--alloy", TAMPERED, "--alloy", QUIET, "-v", "-n", "2", "--dist", "loadgroup")

    for done in (parallel, grouped):
        lines = re.findall(r"(PASSED|FAILED|XFAIL|SKIPPED) \S+?\[(\S+?)\](?:@|\s)", done.stdout)
        assert {claim: outcome for outcome, claim in lines} == serial
        assert "1 refuted" in done.stdout


def test_junit_carries_verdict_pointer_kind_and_reason(session, tmp_path):
    session("--alloy", TAMPERED, "--junitxml", tmp_path / "out.xml", "-q")

    cases = list(ET.parse(tmp_path / "out.xml").iter("testcase"))
    properties = [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]
    refuted = next(row for row in properties if row["forgekit_verdict"] == "refuted")
    assert Counter(row["forgekit_verdict"] for row in properties) == Counter(verdicts(TAMPERED).values())
    assert refuted["forgekit_pointer"] == "/results/integrity/fileHashes/0/sha256"
    assert refuted["forgekit_kind"] == "file-hash"
    assert refuted["forgekit_reason"].startswith("model.safetensors is ")


def test_a_catalog_brings_its_known_gaps(session, tmp_path):
    done = session("--catalog", small_catalog(tmp_path), "-q")

    assert done.returncode == 0
    assert "6 refuted" in done.stdout
    assert "xfailed" in done.stdout


def test_a_known_gap_that_closed_fails(session, tmp_path):
    shutil.copytree(EMBER, tmp_path / "cat" / "lab" / "ember")
    gap = "lab/ember::/results/integrity/modelHash"
    (tmp_path / "cat" / "known-gaps.toml").write_text(f'[gaps]\n"{gap}" = "said to be wrong"\n')

    done = session("--catalog", tmp_path / "cat", "-m", "tier3", "-q")

    assert done.returncode == 1
    assert "a known gap has closed, take it off the list" in done.stdout


def test_a_known_gap_that_names_no_claim_is_bad_usage(session, tmp_path):
    shutil.copytree(EMBER, tmp_path / "cat" / "lab" / "ember")
    (tmp_path / "cat" / "known-gaps.toml").write_text('[gaps]\n"lab/ember::/nowhere" = "?"\n')

    done = session("--catalog", tmp_path / "cat", "-q")

    assert done.returncode == 4
    assert "known gaps that match no claim: lab/ember::/nowhere" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no artifact makes a claim: give a catalog (--catalog) or an artifact (--alloy)"),
        (["--alloy", "nowhere"], "--alloy nowhere: there is no 'nowhere'"),
        (["--catalog", "nowhere"], "--catalog nowhere: there is no such folder"),
    ],
    ids=["nothing", "no artifact", "no catalog"],
)
def test_a_session_without_claims_is_bad_usage_and_no_pass(session, arguments, says):
    done = session(*arguments, "-q")

    assert done.returncode == 4
    assert says in done.stdout + done.stderr


def test_workers_say_so_too_where_there_is_nothing_to_verify(session):
    done = session("-q", "-n", "2")

    assert done.returncode != 0
    assert "no artifact makes a claim" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 60


@pytest.mark.parametrize("option", ["--alloy", "--catalog"])
def test_with_workers_a_wrong_option_is_told_once(session, option):
    done = session("-q", "-n", "2", option, "nowhere")

    assert done.returncode == 4
    assert (done.stdout + done.stderr).count(f"{option} nowhere: there is no ") == 1


def test_an_unreadable_artifact_fails_and_hides_no_other(session, tmp_path):
    shutil.copytree(EMBER, tmp_path / "cat" / "lab" / "good")
    (tmp_path / "cat" / "lab" / "bad").mkdir()
    (tmp_path / "cat" / "lab" / "bad" / "x.alloy.json").write_text("{")

    done = session("--catalog", tmp_path / "cat", "-m", "tier1", "-q")

    assert done.returncode == 1
    assert "1 failed, 12 passed" in done.stdout
    assert "the document ends in the middle" in done.stdout


def test_a_hub_that_cannot_be_reached_is_unchecked_and_no_failure(session):
    env = without_catalog(HF_ENDPOINT="http://127.0.0.1:9")

    done = session("--alloy", "hf://lab/x", "-q", "-ra", env=env)

    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "unchecked: " in done.stdout


def test_a_session_of_other_tests_is_left_alone(session, tmp_path):
    (tmp_path / "test_other.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")

    done = session("-q", suite=False)

    assert done.returncode == 0
    assert "forgekit" not in done.stdout


WATCH = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo") or (event == "socket.bind" and arguments[0].family != 1):
        raise RuntimeError(f"tier 1 asked for the network: {arguments}")
sys.addaudithook(hook)
import pytest
code = pytest.main(["--pyargs", "forgekit.suite", "-m", "tier1", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"])
heavy = {name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "jax", "peft", "vllm"}
print("heavy", sorted(heavy))
sys.exit(code)
"""


def test_tier_1_loads_no_torch_and_uses_no_network():
    catalog = os.environ.get("FORGEKIT_CATALOG", str(EMBEDDED))

    ran = python(WATCH, env=without_catalog(FORGEKIT_CATALOG=catalog))

    assert "asked for the network" not in ran.out + ran.err
    assert "heavy []" in ran.out
    assert ran.code in (0, 1)
    assert re.search(r"\d+ passed", ran.out)


def test_the_tier_folders_are_the_installed_suite():
    root = Path(__file__).parents[2]

    for folder in ("tier1_dispatch", "tier2_reforge", "tier3_hashes", "tier4_scoring", "runtime_matrix"):
        assert any("from forgekit.suite." in path.read_text() for path in (root / folder).glob("test_*.py"))
