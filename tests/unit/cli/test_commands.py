"""Every command, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from forgekit import __version__, digest
from tests.support.builders import WRONG, an_alloy, mini_samples, write_alloy
from tests.support.running import EMBEDDED, forgekit, small_catalog, within, without_catalog

EMBER = EMBEDDED / "forgekit" / "ember-moe-tiny"
STUDENT = EMBER / "eval" / "forgekit_mini" / "student_samples.jsonl"
COMMANDS = (
    *(["verify"], ["claims"], ["plan"], ["score"], ["hash"], ["schema"], ["catalog"]),
    *(["catalog", "list"], ["catalog", "pull"], ["catalog", "pin"], ["catalog", "refresh"]),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command):
    ran = within(*command, "--help")

    assert ran.code == 0
    assert "Usage: forgekit " + " ".join(command) in ran.out


def test_the_version_is_printed():
    assert forgekit("--version").out == f"forgekit {__version__}\n"


@pytest.mark.parametrize("arguments", [["weigh"], ["verify", "--weigh"], ["verify", "--tier", "5", EMBER], ["score"]])
def test_bad_usage_is_2(arguments):
    ran = forgekit(*arguments)

    assert (ran.code, ran.out) == (2, "")


# --- verify -----------------------------------------------------------------


def test_all_well_is_0_and_worst_news_comes_first():
    ran = forgekit("verify", "forgekit/ember-moe-tiny")

    verdicts = [line.split()[0] for line in ran.out.splitlines()]
    assert ran.code == 0
    assert verdicts == sorted(verdicts, key=["refuted", "unproven", "unchecked", "confirmed"].index)


def test_something_refuted_is_1(tmp_path):
    folder = shutil.copytree(EMBEDDED / "counterexamples" / "tampered-weights", tmp_path / "x")

    ran = forgekit("verify", folder, cwd=tmp_path)

    assert ran.code == 1
    assert ran.out.startswith("refuted    ")


def test_a_known_gap_is_0_and_marked():
    ran = within("verify", "counterexamples/tampered-weights")

    assert ran.code == 0
    assert "[known: one bit of the weights was flipped on purpose]" in ran.out


def test_a_known_gap_that_closed_is_1(tmp_path):
    catalog = tmp_path / "cat"
    shutil.copytree(EMBER, catalog / "forgekit" / "ember-moe-tiny")
    gap = "forgekit/ember-moe-tiny::/results/integrity/modelHash"
    (catalog / "known-gaps.toml").write_text(f'[gaps]\n"{gap}" = "said to be wrong"\n')

    ran = within("verify", "--all", "--catalog", catalog, "--tier", "3")

    assert ran.code == 1
    assert gap in ran.err


def test_nothing_checked_is_3():
    assert forgekit("verify", "forgekit/quiet-dense-tiny", "--tier", "runtime").code == 3


def test_one_unreadable_entry_does_not_hide_the_others(tmp_path):
    shutil.copytree(EMBER, tmp_path / "cat" / "lab" / "good")
    (tmp_path / "cat" / "lab" / "bad").mkdir()
    (tmp_path / "cat" / "lab" / "bad" / "x.alloy.json").write_text("{")

    ran = within("verify", "--all", "--catalog", tmp_path / "cat", "--tier", "1")

    assert ran.code == 2
    assert "cannot read lab/bad" in ran.out
    assert "lab/good" in ran.out


def test_the_json_report_is_one_document_of_the_promised_shape(tmp_path):
    ran = within("verify", "--all", "--catalog", small_catalog(tmp_path), "--json")

    report = ran.json
    assert report["schema"] == "forgekit.findings/1"
    assert report["forgekit"] == __version__
    assert sum(report["summary"].values()) == sum(len(entry["findings"]) for entry in report["artifacts"])
    for entry in report["artifacts"]:
        assert set(entry) >= {"target", "alloy", "alloyHash", "coverage", "findings"}
        assert len(entry["alloyHash"]) == 16
        for finding in entry["findings"]:
            assert set(finding) >= {
                *("pointer", "kind", "tier", "verdict", "expected", "observed", "reason", "fix", "evidence", "seconds"),
            }
            assert finding["verdict"] in entry["coverage"]
            assert finding["reason"] or finding["verdict"] == "confirmed"
            assert finding["fix"] or finding["verdict"] not in ("refuted", "unproven")


def test_two_runs_give_the_same_report_but_for_the_time_taken(tmp_path):
    catalog = small_catalog(tmp_path)
    first, second = (forgekit("verify", "--all", "--catalog", catalog, "--json").json for _ in range(2))

    for report in (first, second):
        for entry in report["artifacts"]:
            for finding in entry["findings"]:
                finding.pop("seconds")
                finding["evidence"].pop("cpuSeconds", None)
                finding["evidence"].pop("peakMemory", None)
                for cell in finding["evidence"].get("cells", ()):
                    for name in ("loadSeconds", "peakMemoryMiB", "baselineMiB", "tokensPerSec"):
                        cell["evidence"].pop(name, None)
    assert first == second


@pytest.mark.parametrize(
    ("only", "count"), [("/results/integrity/modelHash", 1), ("file-*", 0), ("file-hash", 1), ("*::/stages/*", 9)]
)
def test_claims_are_chosen_by_id_pattern_or_kind(only, count):
    ran = within("verify", "forgekit/ember-moe-tiny", "--only", only, "--json")

    assert len(ran.json["artifacts"][0]["findings"]) == count


def test_the_command_a_page_gives_to_check_again_works():
    ran = within("verify", "counterexamples/inflated-score", "--only", "/results/benchmarks/0/delta", "--json")

    (finding,) = ran.json["artifacts"][0]["findings"]
    assert (finding["verdict"], finding["observed"]) == ("refuted", -4.1)


def test_the_catalog_can_come_from_the_environment(tmp_path):
    shutil.copytree(EMBER, tmp_path / "cat" / "lab" / "ember")

    ran = within("verify", "lab/ember", "--tier", "1", env=without_catalog(FORGEKIT_CATALOG=str(tmp_path / "cat")))

    assert ran.code == 0


def test_without_a_catalog_all_is_bad_input(tmp_path):
    ran = forgekit("verify", "--all", cwd=tmp_path)

    assert ran.code == 2
    assert "there is no catalog here" in ran.err
    assert "forgekit catalog pull" in ran.err


def test_an_oracle_can_be_asked_for():
    ran = within("verify", "forgekit/ember-moe-tiny", "--tier", "4", "--oracle", "evalplus-26d6d00", "--json")

    for finding in ran.json["artifacts"][0]["findings"]:
        assert finding["evidence"]["oracles"] == ["evalplus-26d6d00"]


def test_an_oracle_nobody_knows_leaves_the_score_unchecked():
    ran = within("verify", "forgekit/ember-moe-tiny", "--tier", "4", "--oracle", "mine", "--json")

    assert ran.code == 3
    assert {f["verdict"] for f in ran.json["artifacts"][0]["findings"]} == {"unchecked"}


# --- claims, plan, schema ---------------------------------------------------


def test_claims_lists_what_verify_settles():
    listed = within("claims", "forgekit/ember-moe-tiny", "--json").json["claims"]
    settled = within("verify", "forgekit/ember-moe-tiny", "--json").json["artifacts"][0]["findings"]

    assert [claim["id"] for claim in listed] == [finding["id"] for finding in settled]
    assert len({claim["id"] for claim in listed}) == len(listed)


def test_a_plan_names_family_stages_and_their_class():
    ran = within("plan", "forgekit/ember-moe-tiny")

    assert ran.code == 0
    assert "family  qwen3_moe" in ran.out
    assert "expert-prune               UnfusedExperts   exact\n" in ran.out.replace(" \n", "\n")


def test_a_plan_is_json_too(tmp_path):
    good = within("plan", "forgekit/ember-moe-tiny", "--json")
    tree = an_alloy()
    tree["source"]["architecture"] = "qwen2"
    bad = within("plan", write_alloy(tmp_path, tree), "--json")

    assert good.code == 0
    assert [step["resolved"] for step in good.json["steps"]] == [True, True, True]
    assert bad.code == 2
    assert bad.json["problems"][0]["pointer"].startswith("/stages/")


def test_the_schema_validates_the_embedded_documents():
    schema = within("schema").json

    jsonschema.Draft202012Validator.check_schema(schema)
    for path in EMBEDDED.rglob("*.alloy.json"):
        jsonschema.validate(json.loads(path.read_bytes()), schema)


# --- hash -------------------------------------------------------------------


def test_a_folders_hashes_are_named_by_convention():
    ran = within("hash", EMBER, "--json")

    tree = json.loads((EMBER / "ember-moe-tiny.alloy.json").read_bytes())
    (model,) = ran.json["models"]
    assert model["modelHash"] == tree["results"]["integrity"]["modelHash"]
    assert model["convention"] == "manifest"
    assert model["concat"] == f"sha256:{digest.sha256_file(EMBER / 'model.safetensors').hex}"
    text = within("hash", EMBER).out
    assert "modelHash (manifest) of 1 files" in text
    assert "superseded concat hash" in text


def test_the_hash_of_an_alloy_shows_its_short_form():
    path = EMBER / "ember-moe-tiny.alloy.json"

    ran = within("hash", path)

    sha = digest.sha256_file(path).hex
    assert ran.out == f"{sha}  {path}  alloyHash {sha[:16]}\n"


def test_a_folder_without_weights_says_so(tmp_path):
    ran = within("hash", tmp_path)

    assert ran.code == 2
    assert "the folder holds no weight files" in ran.err


# --- score ------------------------------------------------------------------


def test_a_score_shows_failures_counts_data_set_self_check_and_isolation():
    ran = within("score", STUDENT, "-b", "forgekit_mini")

    assert ran.code == 0
    assert "forgekit_mini pass@1 87.50 %  (21/24 by evalplus-0.3.1)" in ran.out
    assert ran.out.count("answered wrongly") >= 3
    assert "24/24 canonical solutions pass" in ran.out
    assert "96/96 known-wrong mutants fail" in ran.out
    assert "isolation" in ran.out


def test_a_score_is_json_too():
    report = within("score", STUDENT, "-b", "forgekit_mini", "--json").json

    assert report["schema"] == "forgekit.score/1"
    assert {oracle: (s["passed"], s["n"]) for oracle, s in report["scores"].items()} == {
        "evalplus-0.3.1": (21, 24),
        "evalplus-26d6d00": (21, 24),
    }
    failing = {task for task, rows in report["scores"]["evalplus-0.3.1"]["tasks"].items() if "fail" in rows[0].values()}
    assert failing == set(WRONG)


def test_irregular_records_are_listed_by_line_and_are_2(tmp_path):
    path = tmp_path / "samples.jsonl"
    lines = mini_samples().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"{oops\n", *lines[6:], lines[0]]))

    ran = within("score", path, "-b", "forgekit_mini")

    assert ran.code == 2
    for text in ("line 6: not JSON", "no record for Mini/5", "line 25: record 2 for Mini/0; the first is on line 1"):
        assert text in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-b", "arc"], "no benchmark is named 'arc'"),
        (["-b", "forgekit_mini", "--oracle", "mine"], "forgekit_mini has no oracle 'mine'"),
        (["-b", "forgekit_mini", "--dataset-file", "nowhere.jsonl"], "there is no such data set"),
        (["-b", "forgekit_mini", "--dataset-file", "arc=" + str(STUDENT)], "no benchmark is named 'arc'"),
        (["-b", "forgekit_mini", "--dataset-file", str(STUDENT)], "a problem of the data set lacks"),
    ],
)
def test_what_cannot_be_scored_says_why(arguments, says):
    ran = forgekit("score", STUDENT, *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


# --- output -----------------------------------------------------------------


def test_text_from_an_alloy_cannot_steer_the_terminal(tmp_path):
    tree = an_alloy(name="\x1b[2J\x1b]0;owned\x07", description="\u202edesrever")
    tree["source"]["architecture"] = "\x1b[31mqwen"
    path = write_alloy(tmp_path, tree)

    for command in ("verify", "plan", "claims"):
        ran = forgekit(command, path)
        assert "\x1b" not in ran.out + ran.err
        assert "\x07" not in ran.out + ran.err
        assert "\u202e" not in ran.out + ran.err


def test_a_narrow_or_dumb_terminal_still_gets_whole_lines():
    ran = forgekit("verify", "forgekit/quiet-dense-tiny", env=without_catalog(COLUMNS="40", TERM="dumb"))

    assert "the score is published without samples" in ran.out
    assert len(ran.out.splitlines()) == 19


def test_pages_are_written_where_asked(tmp_path):
    ran = within("verify", "--all", "--tier", "1", "--html", tmp_path / "a" / "b")

    assert Path(tmp_path / "a" / "b" / "index.html").is_file()
    assert f"report page: {tmp_path / 'a' / 'b' / 'index.html'}" in ran.err
