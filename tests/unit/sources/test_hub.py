"""The real Hub client against a hub on loopback, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.support.hub import Hub, Repo, repo_of, serving
from tests.support.running import EMBEDDED, ROOT, forgekit

EMBER = "forgekit/ember-moe-tiny"


@pytest.fixture
def hub():
    with serving(Hub(repos={EMBER: repo_of(EMBEDDED / EMBER)})) as hub:
        yield hub


@pytest.fixture
def env(hub, tmp_path):
    return hub.environment(tmp_path)


def verdicts(ran):
    return {finding["pointer"] or finding["kind"]: finding for finding in ran.json["artifacts"][0]["findings"]}


def verify(env, *more, target=f"hf://{EMBER}"):
    return forgekit("verify", target, "--json", *more, env=env)


def test_a_repository_is_verified_without_downloading_its_weights(hub, env):
    ran = verify(env)

    found = verdicts(ran)
    assert ran.code == 0
    assert found["/results/integrity/fileHashes/0/sha256"]["verdict"] == "confirmed"
    assert "(not downloaded)" in found["/results/integrity/fileHashes/0/sha256"]["reason"]
    assert found["/results/forgedParamsB"]["verdict"] == "confirmed"  # headers, by range
    assert found["/results/benchmarks/0/score"]["verdict"] == "confirmed"
    assert ran.json["artifacts"][0]["revision"] == hub.repos[EMBER].commit
    assert not [line for line in hub.seen if line.startswith("HEAD") and line.endswith(".safetensors")]


@pytest.mark.parametrize("suffix", ["@main", "@COMMIT"])
def test_a_revision_can_be_named(hub, env, suffix):
    target = f"hf://{EMBER}{suffix.replace('COMMIT', hub.repos[EMBER].commit)}"

    assert verify(env, "--tier", "1", target=target).code == 0


def test_a_revision_that_does_not_exist_is_bad_input(env):
    ran = verify(env, target=f"hf://{EMBER}@nightly")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: the repository has no such revision\n  in   hf://{EMBER}@nightly\n"


def test_a_repository_that_does_not_exist_is_bad_input(env):
    ran = verify(env, target="hf://forgekit/none")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: there is no such repository, or it is private\n  in   hf://forgekit/none\n")


def test_a_repository_without_an_alloy_is_bad_input(hub, env):
    hub.repos["forgekit/bare"] = Repo({"README.md": b"x"})

    ran = verify(env, target="hf://forgekit/bare")

    assert ran.code == 2
    assert "there is no alloy here\n  in   hf://forgekit/bare" in ran.err


def test_a_private_repository_needs_a_token(hub, env):
    hub.repos[EMBER].private = True

    assert verify(env).code == 2
    assert verify(env | {"HF_TOKEN": hub.token}, "--tier", "1").code == 0


def test_a_gated_repository_says_what_to_ask_for(hub, env):
    hub.repos[EMBER].gated = True

    ran = verify(env)

    assert ran.code == 2
    assert "the repository is gated" in ran.err
    assert "ask for access and set HF_TOKEN" in ran.err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub, env, status):
    hub.faults["/api/models/"] = [status]
    hub.faults["student_samples"] = [status]

    assert verify(env, "--only", "/results/benchmarks/0/resultHash").code == 0


def test_a_hub_that_stays_broken_is_unreachable_and_not_the_publishers_fault(hub, env):
    hub.faults["student_samples"] = [503] * 50

    told = verdicts(verify(env, "--only", "/results/benchmarks/0/resultHash", "--only", "/results/benchmarks/0/score"))
    found, score = told["/results/benchmarks/0/resultHash"], told["/results/benchmarks/0/score"]

    # its listing has the hash all the same
    assert found["verdict"] == "confirmed"
    assert "(not downloaded)" in found["reason"]
    assert score["verdict"] == "unchecked"
    assert "503" in score["reason"]


def test_a_hub_that_is_down_is_bad_news_and_no_traceback(env):
    ran = verify(env | {"HF_ENDPOINT": "http://127.0.0.1:9"})

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: the Hub cannot be reached")


def test_a_dropped_connection_is_told_as_such(hub, env):
    hub.faults["/api/models/"] = [0] * 20

    ran = verify(env)

    assert ran.code == 2
    assert "the Hub cannot be reached" in ran.err


@pytest.mark.parametrize("how", [["--offline"], []])
def test_offline_means_no_request_at_all(hub, env, how):
    ran = verify(env if how else env | {"HF_HUB_OFFLINE": "1"}, *how)

    assert ran.code == 2
    assert "this run is offline" in ran.err
    assert not hub.seen


def test_a_hub_that_lies_about_a_weight_files_hash_is_caught_by_the_alloy(hub, env):
    hub.repos[EMBER].lies["model.safetensors"] = "0" * 64

    found = verdicts(verify(env))["/results/integrity/fileHashes/0/sha256"]

    assert found["verdict"] == "refuted"
    assert found["observed"] == "0" * 64


def test_a_hub_that_serves_other_bytes_than_it_lists_is_told(hub, env):
    hub.repos[EMBER].lies["eval/forgekit_mini/student_samples.jsonl"] = "0" * 64

    found = verdicts(verify(env))["/results/benchmarks/0/resultHash"]

    assert found["verdict"] == "unchecked"
    assert found["reason"].startswith("the Hub lists sha256 " + "0" * 64 + " and serves bytes of ")


def test_a_file_the_alloy_names_and_the_repository_lacks_is_the_publishers_omission(hub, env):
    del hub.repos[EMBER].files["eval/forgekit_mini/student_samples.jsonl"]
    del hub.repos[EMBER].files["model.safetensors"]

    found = verdicts(verify(env))

    assert found["/results/benchmarks/0/resultHash"]["verdict"] == "unproven"
    assert found["/results/benchmarks/0/score"]["verdict"] == "unproven"
    assert found["/results/integrity/fileHashes/0/sha256"]["verdict"] == "refuted"


def test_a_weight_file_no_hash_covers_is_told(hub, env):
    hub.repos[EMBER].files["extra.safetensors"] = b"x" * 100

    found = verdicts(verify(env))["/results/integrity/fileHashes"]

    assert found["verdict"] == "refuted"
    assert found["reason"] == "extra.safetensors is published and no hash covers it"


def test_parents_are_looked_for_on_the_hub_too(hub, env, tmp_path):
    hub.repos["forgekit/ember-moe-tiny-packaged"] = repo_of(EMBEDDED / "forgekit/ember-moe-tiny-packaged")

    found = verdicts(verify(env | {"FORGEKIT_CATALOG": str(tmp_path)}, target="hf://forgekit/ember-moe-tiny-packaged"))

    assert found["/derivedFrom/alloyHash"]["verdict"] == "confirmed"


# --- catalogs -------------------------------------------------------------


@pytest.fixture
def organisation(hub):
    for name in ("ember-moe-tiny-packaged", "quiet-dense-tiny"):
        hub.repos[f"forgekit/{name}"] = repo_of(EMBEDDED / "forgekit" / name)
    hub.repos["forgekit/bare"] = Repo({"README.md": b"no alloy"})
    return hub


def pull(env, tmp_path, *more):
    return forgekit("catalog", "pull", "hf://forgekit", "--into", tmp_path / "cat", *more, env=env)


@pytest.mark.usefixtures("organisation")
def test_an_organisation_is_pulled_with_its_evidence_and_without_its_weights(env, tmp_path):
    ran = pull(env, tmp_path)

    assert ran.code == 0, ran.err
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["no", "alloy"],
        ["pinned", "forgekit/ember-moe-tiny"],
        ["pinned", "forgekit/ember-moe-tiny-packaged"],
        ["pinned", "forgekit/quiet-dense-tiny"],
    ]
    pinned = {p.relative_to(tmp_path / "cat" / EMBER).as_posix() for p in (tmp_path / "cat" / EMBER).rglob("*.*")}
    assert "eval/forgekit_mini/student_samples.jsonl" in pinned
    assert "calibration/embers.jsonl" in pinned
    assert "model.safetensors" not in pinned
    verified = forgekit("verify", "--all", "--catalog", tmp_path / "cat", "--offline", "--json", env=env)
    assert verified.json["summary"]["refuted"] == 0


def test_a_pull_goes_on_where_it_stopped(organisation, env, tmp_path):
    organisation.faults["quiet-dense-tiny/resolve"] = [500] * 50
    first = pull(env, tmp_path)
    organisation.faults.clear()
    before = organisation.seen.copy()

    second = pull(env, tmp_path)

    assert first.code == 2
    assert "1 of 4 could not be pulled: forgekit/quiet-dense-tiny" in first.err
    assert not (tmp_path / "cat" / "forgekit" / "bare").exists()
    assert second.code == 0
    assert second.out.count("have ") == 2
    asked = {line for line in organisation.seen if organisation.seen[line] > before[line]}
    assert not [line for line in asked if "ember-moe-tiny/" in line]


def test_a_pull_killed_in_the_middle_leaves_whole_entries_only(organisation, env, tmp_path):
    organisation.faults["quiet-dense-tiny/resolve"] = [503, 503] * 100
    command = [sys.executable, "-m", "forgekit", "catalog", "pull", "hf://forgekit", "--into", str(tmp_path / "cat")]
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until and not any("quiet-dense-tiny/resolve" in line for line in organisation.seen):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    organisation.faults.clear()

    entries = [path.parent for path in (tmp_path / "cat").glob("*/*/*.alloy.json")]
    assert all((entry / "forgekit-pin.json").exists() for entry in entries)
    assert pull(env, tmp_path).code == 0
    assert len(list((tmp_path / "cat").glob("*/*/forgekit-pin.json"))) == 3


def test_refreshing_shows_the_difference_and_keeps_the_pin(organisation, env, tmp_path):
    pull(env, tmp_path)
    pinned = (tmp_path / "cat" / EMBER / "forgekit-pin.json").read_bytes()
    organisation.repos[EMBER].files["README.md"] += b"more"

    ran = forgekit("catalog", "refresh", EMBER, "--into", tmp_path / "cat", env=env)

    assert ran.code == 0
    assert f"changed     {EMBER}" in ran.out
    assert "changed  README.md (101 -> 105 bytes)" in ran.out
    assert "kept as it was; --yes replaces it" in ran.out
    assert (tmp_path / "cat" / EMBER / "forgekit-pin.json").read_bytes() == pinned


def test_refreshing_with_yes_replaces_the_pin(organisation, env, tmp_path):
    pull(env, tmp_path)
    organisation.repos[EMBER].files["README.md"] += b"more"

    forgekit("catalog", "refresh", "--yes", "--into", tmp_path / "cat", env=env)

    pin = json.loads((tmp_path / "cat" / EMBER / "forgekit-pin.json").read_bytes())
    assert pin["revision"] == organisation.repos[EMBER].commit
    assert (tmp_path / "cat" / EMBER / "README.md").read_bytes().endswith(b"more")


def test_pinning_over_a_pin_asks_first(organisation, env, tmp_path):
    pull(env, tmp_path)
    organisation.repos[EMBER].files["README.md"] += b"more"

    ran = forgekit("catalog", "pin", f"hf://{EMBER}", "--into", tmp_path / "cat", env=env)

    assert "kept as it was; --yes replaces it" in ran.out


@pytest.mark.usefixtures("organisation")
def test_an_alloy_that_was_replaced_under_a_pin_is_caught(env, tmp_path):
    pull(env, tmp_path)
    path = tmp_path / "cat" / EMBER / "ember-moe-tiny.alloy.json"
    path.write_bytes(path.read_bytes().replace(b'"version": "1.0.0"', b'"version": "1.0.1"'))

    found = forgekit("verify", EMBER, "--catalog", tmp_path / "cat", "--only", "alloy-hash", "--json", env=env)

    assert [f["verdict"] for f in found.json["artifacts"][0]["findings"]] == ["refuted"] * 3


def test_the_suite_runs_on_a_hub_artifact_with_xdist_workers(env, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "forgekit.suite", "--alloy", f"hf://{EMBER}", "-n", "2", "-q"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "claims confirmed" in done.stdout
