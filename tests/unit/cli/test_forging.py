"""forge, reforge, diff and tiny as a user meets them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from forgekit.checkpoint.difference import compare
from forgekit.checkpoint.opening import open_folder
from tests.support.forged import TRAIN, cut_experts
from tests.support.hub import Hub, Repo, serving
from tests.support.models import a_recipe, base, copy_of
from tests.support.running import EMBEDDED, ROOT, forgekit, heeds_interrupts, within, without_catalog

CUT = cut_experts("aimer")
pytestmark = pytest.mark.xdist_group("forging")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    path = a_recipe("mixtral", CUT, folder / "recipe")
    ran = forgekit("forge", path, "--out", folder / "out", "--offline")
    assert ran.code == 0, ran.err
    return folder, ran


def test_a_forge_says_what_each_stage_did_and_where_the_artifact_is(made):
    folder, ran = made

    assert "expert-prune" in ran.out
    assert "modelHash" in ran.out
    assert f"artifact: {folder / 'out'}" in ran.out
    assert ran.err == ""


def test_what_was_forged_verifies_with_nothing_refuted(made):
    folder, _ = made

    ran = within("verify", folder / "out", "--json")

    assert ran.code == 0
    (entry,) = ran.json["artifacts"]
    verdicts = {finding["id"].split("::")[1]: finding["verdict"] for finding in entry["findings"]}
    assert set(verdicts.values()) == {"confirmed", "unproven"}
    assert [pointer for pointer, verdict in verdicts.items() if verdict == "unproven"] == [
        "/source/baseModel",
        "/results/integrity/signature",
    ], "the recipe here names no revision, and nobody signed"


def test_a_run_again_over_a_finished_artifact_is_refused_and_changes_nothing(made):
    folder, _ = made

    ran = within("forge", folder / "recipe/recipe.json", "--out", folder / "out", "--offline")

    assert ran.code == 2
    assert "the folder is not empty" in ran.err


def test_json_is_one_document(tmp_path):
    ran = within("forge", a_recipe("mixtral", CUT, tmp_path / "recipe"), "--out", tmp_path / "out", "--json")

    assert ran.json["schema"] == "forgekit.forge/1"
    assert ran.json["stages"][0]["expertsKeptPerLayer"] == 6
    assert ran.json["modelHash"].startswith("sha256:")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.json", "--out", "x"], "there is no such file"),
        (["{recipe}", "--out", "{out}", "--device", "tpu"], "neither cpu nor cuda"),
        (["{recipe}", "--out", "{out}", "--base", "nowhere"], "there is no such folder"),
    ],
)
def test_bad_usage_is_said_in_a_sentence(arguments, says, tmp_path):
    path = a_recipe("mixtral", CUT, tmp_path / "recipe")

    ran = within("forge", *(text.format(recipe=path, out=tmp_path / "out") for text in arguments))

    assert ran.code == 2
    assert says in ran.err


def test_a_base_that_is_nowhere_says_how_to_name_a_folder(tmp_path):
    path = a_recipe("mixtral", CUT, tmp_path / "recipe")
    tree = json.loads(path.read_text())
    tree["source"]["baseModel"] = "nobody/nothing"
    path.write_text(json.dumps(tree))

    ran = forgekit("forge", path, "--out", tmp_path / "out", "--offline")

    assert ran.code == 2
    assert "the base 'nobody/nothing' cannot be had" in ran.err
    assert "--base" in ran.err


def test_control_c_stops_it_and_the_same_command_goes_on(tmp_path):
    pytest.importorskip("torch")
    path = a_recipe("mixtral", [*CUT, TRAIN | {"steps": 100_000}], tmp_path / "recipe")
    command = [sys.executable, "-m", "forgekit", "forge", path, "--out", tmp_path / "out", "--offline"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=without_catalog(),
        preexec_fn=heeds_interrupts,
    ) as process:
        for _ in range(600):
            time.sleep(0.1)
            if (tmp_path / "out/.forge/02-train.partial").is_dir():
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "stopped; nothing was left half-written" in error
    assert "Traceback" not in error
    path.write_bytes(path.read_bytes())
    assert not list((tmp_path / "out").glob("*.alloy.json"))
    assert (tmp_path / "out/.forge/01-expert-prune/done.json").is_file()


def test_a_reforge_gives_the_grade_and_exit_code():
    ran = within("reforge", "minis/mixtral-aimer", "--catalog", EMBEDDED, "--offline")

    assert ran.code == 0
    assert ran.out.startswith("bitwise: the recipe gives the published bytes\n  published  sha256:")


def test_tiny_lists_families_and_writes_one(tmp_path):
    listed = within("tiny")
    written = within("tiny", "granitemoe", "--out", tmp_path / "g")
    again = within("tiny", "granitemoe", "--out", tmp_path / "g")
    unknown = within("tiny", "nonesuch")

    assert "granitemoe       sha256:" in listed.out
    assert compare(open_folder(tmp_path / "g"), open_folder(base("granitemoe"))).differences == []
    assert written.out.split()[0] in listed.out
    assert again.code == 2
    assert "not empty" in again.err
    assert unknown.code == 2


def test_a_diff_of_the_same_is_empty_and_of_others_names_the_first_byte(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)

    same = within("diff", base("qwen2"), base("qwen2"))
    other = within("diff", base("qwen2"), folder)
    as_json = within("diff", base("qwen2"), folder, "--json")

    assert (same.code, same.out) == (0, "the same tensors (3,543,040 bytes compared)\n")
    assert other.code == 1
    assert "1 values differ, by at most" in other.out
    assert "(1 ulp); first at byte" in other.out
    assert as_json.json["differences"][0]["count"] == 1
    assert as_json.json["differences"][0]["offset"] == len(data) - 2


def test_a_diff_says_missing_tensors_shapes_dtypes_and_shards(tmp_path):
    ran = within("diff", base("qwen2"), base("qwen3"))

    assert ran.code == 1
    assert "is only in A" in ran.out
    assert "is only in B" in ran.out
    assert "shape [256, 256] in A and [512, 256] in B" in ran.out
    assert within("diff", base("qwen2"), tmp_path / "none").code == 2


def test_shards_cut_elsewhere_are_layout_and_no_difference(tmp_path):
    from tests.support.models import run_stage

    run_stage("package", "mixtral", tmp_path / "one", format="safetensors")

    ran = within("diff", base("mixtral"), tmp_path / "one")

    assert ran.code == 0
    assert ran.out.startswith("shards: ")
    shutil.rmtree(tmp_path / "one")


def test_base_and_artifact_come_from_the_hub(tmp_path):
    pytest.importorskip("torch")
    stages = cut_experts("activation_count")
    path = a_recipe("mixtral", stages, tmp_path / "recipe")
    repo = Repo({entry.name: entry.read_bytes() for entry in base("mixtral").iterdir()})
    tree = json.loads(path.read_text())
    tree["source"] = {"baseModel": "lab/base", "architecture": "mixtral", "revision": repo.commit}
    path.write_text(json.dumps(tree))
    with serving(Hub({"lab/base": repo})) as hub:
        env = hub.environment(tmp_path)
        forged = forgekit("forge", path, "--out", tmp_path / "out", env=env)
        files = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        hub.repos["lab/forged"] = Repo({name: entry.read_bytes() for name, entry in files.items()})
        again = forgekit("reforge", "hf://lab/forged", env=env)
        verified = forgekit("verify", tmp_path / "out", "--json", env=env)
        hub.repos.pop("lab/base")
        lost = forgekit("forge", path, "--out", tmp_path / "c", env=env | {"HF_HOME": str(tmp_path / "empty")})

    assert forged.code == 0, forged.err
    assert again.code == 0, again.err
    assert again.out.startswith("bitwise: ")
    (entry,) = verified.json["artifacts"]
    verdicts = {finding["kind"]: finding["verdict"] for finding in entry["findings"]}
    assert verdicts["reforge"] == verdicts["surgery-proof"] == verdicts["stage-output"] == "confirmed"
    assert lost.code == 2
    assert "the base 'lab/base' cannot be had" in lost.err
