"""A forge gives the same bytes every time, goes on after any crash, and refuses what cannot be before it begins."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys

import pytest

from forgekit import alloy
from forgekit.checkpoint.opening import open_folder
from forgekit.digest import sha256_file
from forgekit.errors import CheckpointError, ForgeError, PlanError, ProofError
from forgekit.forge.executor import Settings, forge
from forgekit.forge.inputs import order
from forgekit.resolve import plan
from tests.support.forged import CORPUS, DISTIL, LORA, TRAIN, cut_experts, heads
from tests.support.models import a_recipe, base, copy_of, forge_it
from tests.support.running import ROOT, without_catalog

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("executor")
CUT = cut_experts("activation_count")


def run(path, out, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "forgekit", "forge", path, "--out", out, "--offline", "--json", *arguments],
        capture_output=True,
        text=True,
        env=without_catalog(**variables),
        cwd=ROOT,
        timeout=300,
        check=False,
    )


def weights(folder):
    return {path.name: sha256_file(path).hex for path in folder.glob("*.safetensors")}


def test_two_processes_two_thread_counts_and_two_folders_give_one_hash(tmp_path):
    made = []
    for number, threads in enumerate(("1", "2")):
        path = a_recipe("mixtral", [*CUT, TRAIN], tmp_path / f"recipe-{number}")
        ran = run(path, tmp_path / f"out-{number}", OMP_NUM_THREADS=threads, PYTHONHASHSEED=threads)
        assert ran.returncode == 0, ran.stderr
        made.append(json.loads(ran.stdout)["modelHash"])

    assert made[0] == made[1]
    assert weights(tmp_path / "out-0") == weights(tmp_path / "out-1")


def test_the_alloy_says_everything_that_was_done(tmp_path):
    path = a_recipe("mixtral", [*CUT, LORA], tmp_path / "recipe")

    made = forge_it(path, tmp_path / "out")

    tree = alloy.read_file(made.alloy).tree
    rows = tree["results"]["stages"]
    assert [row["type"] for row in rows] == ["expert-activation-profile", "expert-prune", "lora"]
    assert [row["reproducibility"] for row in rows] == ["statistical", "exact", "exact-here"]
    assert rows[0]["inputHash"] == tree["results"]["integrity"]["baseModelHash"]
    assert all(after["inputHash"] == before["outputHash"] for before, after in itertools.pairwise(rows))
    assert rows[-1]["outputHash"] == tree["results"]["integrity"]["modelHash"] == str(made.model_hash)
    assert rows[1]["proof"]["logits"]["verdict"] == "confirmed"
    assert rows[2]["reload"]["verdict"] == "confirmed"
    assert rows[0]["loadStrategy"]["kind"] == "full"
    for row in rows:
        for entry in row["files"]:
            assert sha256_file(made.folder / entry["filename"]).hex == entry["sha256"]
    lock = json.loads((made.folder / "forge/environment.json").read_text())
    assert {"python", "processor", "threads", "seed", "libraries"} <= lock.keys()
    assert not (made.folder / ".forge").exists()
    assert {key: value for key, value in tree.items() if key != "results"} == json.loads(path.read_text())


def test_an_artifact_is_forged_again_from_what_was_authored_in_it(tmp_path):
    first = forge_it(a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe"), tmp_path / "a")

    again = forge(alloy.read_file(first.alloy), tmp_path / "b", Settings(offline=True))

    assert again.model_hash == first.model_hash


def test_cycles_repeat_what_transforms_and_nothing_else(tmp_path):
    stages = [
        {"type": "source-config"},
        heads("magnitude", 0.5, minHeadsPerLayer=1, minKvHeadsPerLayer=1),
        TRAIN,
        {"type": "package", "format": "safetensors"},
    ]
    path = a_recipe("qwen2", stages, tmp_path / "recipe", cycles=2)
    made = plan(alloy.read_file(path))

    assert [(turn.step.type, turn.cycle) for turn in order(made.steps, 2)] == [
        ("source-config", 0),
        ("prune", 0),
        ("train", 0),
        ("prune", 1),
        ("train", 1),
        ("package", 0),
    ]
    rows = forge_it(path, tmp_path / "out").stages
    assert [row["headsRemoved"] for row in rows if row["type"] == "prune"] == [4, 8]


def test_perplexity_is_measured_before_and_after(tmp_path):
    pinned = sha256_file(a_recipe("mixtral", CUT, tmp_path / "recipe").parent / CORPUS)
    corpus = {"name": "words", "path": CORPUS, "contentHash": str(pinned)}
    path = a_recipe("mixtral", CUT, tmp_path / "recipe", perplexityCorpus=corpus)

    results = alloy.read_file(forge_it(path, tmp_path / "out").alloy).tree["results"]

    assert results["baselinePerplexity"] > 1
    assert results["finalPerplexity"] != results["baselinePerplexity"]
    assert [row["of"] for row in results["perplexity"]] == ["base", "final"]


def test_a_cycle_that_ruins_the_model_stops_the_forge(tmp_path, monkeypatch):
    from forgekit.forge import executor

    pinned = sha256_file(a_recipe("qwen2", [], tmp_path / "recipe").parent / CORPUS)
    corpus = {"name": "words", "path": CORPUS, "contentHash": str(pinned)}
    path = a_recipe("qwen2", [TRAIN], tmp_path / "recipe", perplexityCorpus=corpus, cycles=2)
    measured = iter([20.0, 22.5])
    monkeypatch.setattr(executor, "measure_perplexity", lambda *_, **__: {"perplexity": next(measured)})

    with pytest.raises(ProofError, match=r"cycle 1 raised perplexity from 20 to 22.5: the forge stops here"):
        forge_it(path, tmp_path / "out")

    report = json.loads((tmp_path / "out/.forge/REGRESSION_HALT.json").read_text())
    assert report["halted_at_cycle"] == 1
    assert report["regression_ratio"] == 1.125
    assert not list((tmp_path / "out").glob("*.alloy.json"))


def test_a_teacher_is_the_base_unless_another_is_named(tmp_path):
    path = a_recipe("qwen2", [heads("magnitude"), DISTIL], tmp_path / "recipe")
    other = a_recipe("qwen2", [heads("magnitude"), DISTIL | {"teacher": str(base("qwen2"))}], tmp_path / "other")

    assert forge_it(path, tmp_path / "a").model_hash == forge_it(other, tmp_path / "b").model_hash


def test_adapters_train_on_quantised_models_and_against_quantised_teachers(tmp_path):
    pytest.importorskip("bitsandbytes")
    stages = [LORA | {"quantize": True}, DISTIL | {"teacherQuant": "8bit", "studentQuant": "4bit", "lossType": "both"}]

    rows = forge_it(a_recipe("qwen2", stages, tmp_path / "recipe"), tmp_path / "out").stages

    assert [row["loadStrategy"]["kind"] for row in rows] == ["4-bit", "4-bit"]
    assert all(row["merged"] and row["weightsChanged"] > 0 for row in rows)
    assert rows[1]["loss"] == "both"


def test_an_adapter_that_is_not_merged_stands_beside_the_weights(tmp_path):
    path = a_recipe("qwen2", [LORA | {"mergeAfter": False}], tmp_path / "recipe")

    made = forge_it(path, tmp_path / "out")

    assert weights(made.folder) == weights(base("qwen2"))
    assert (made.folder / "forge/01-lora/adapter.safetensors").is_file()


# Crashes.


KILL = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch, transformers, peft  # once, for every child
from forgekit import alloy
from forgekit.digest import sha256_file
from forgekit.forge.executor import Settings, forge

recipe, whole, out = map(Path, sys.argv[1:])

def run(folder):
    forge(alloy.read_file(recipe), folder, Settings(offline=True))

def child(folder):
    pid = os.fork()
    if pid == 0:
        try:
            run(folder)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return pid

started = time.monotonic()
assert os.waitpid(child(whole), 0)[1] == 0
took = time.monotonic() - started
wanted = {path.name: sha256_file(path).hex for path in whole.glob("*.safetensors")}
draw = random.Random(1)
kills, stages = 0, set()
while kills < 20:
    if list(out.glob("*.alloy.json")):
        shutil.rmtree(out)
    pid = child(out)
    place, until = f"{kills % 5:02d}-*", time.monotonic() + 60
    while kills % 5 and not list((out / ".forge").glob(place)) and time.monotonic() < until:
        if list(out.glob("*.alloy.json")):
            break
        time.sleep(0.001)  # until this stage has begun, however slow the machine is now
    time.sleep(draw.uniform(0.0, 0.15) * took)
    os.kill(pid, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    stages.add(tuple(sorted(path.name for path in (out / ".forge").glob("0*"))) if (out / ".forge").is_dir() else ())
    for shard in out.glob("*.safetensors"):
        assert wanted[shard.name] == sha256_file(shard).hex, "a final name is a whole file"
if not list(out.glob("*.alloy.json")):
    assert os.waitpid(child(out), 0)[1] == 0
made = {path.name: sha256_file(path).hex for path in out.glob("*.safetensors")}
left = [path.name for path in out.rglob("*.partial")]
print(json.dumps({"same": made == wanted, "left": left, "kills": kills, "places": len(stages)}))
"""


def test_killed_at_twenty_points_it_completes_to_the_same_hash(tmp_path):
    path = a_recipe("mixtral", [*CUT, TRAIN, {"type": "package", "format": "safetensors"}], tmp_path / "recipe")

    ran = subprocess.run(
        [sys.executable, "-c", KILL, path, tmp_path / "whole", tmp_path / "out"],
        capture_output=True,
        text=True,
        env=without_catalog(OMP_NUM_THREADS="1"),
        cwd=ROOT,
        timeout=300,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["same"]
    assert found["left"] == []
    assert found["kills"] == 20
    assert found["places"] >= 4, "the kills fell into different stages"


def test_stages_that_have_run_are_used_again(tmp_path, monkeypatch):
    path = a_recipe("mixtral", [*CUT, {"type": "package", "format": "safetensors"}], tmp_path / "recipe")
    from forgekit.forge import executor

    def crash(*_arguments):
        raise CheckpointError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(executor._Job, "_finish", crash)
        with pytest.raises(CheckpointError, match="the power went"):
            forge_it(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.alloy.json"))

    made = forge_it(path, tmp_path / "out")

    assert made.resumed == 3


def test_a_stage_whose_files_were_changed_meanwhile_runs_again(tmp_path, monkeypatch):
    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")
    from forgekit.forge import executor

    def crash(*_arguments):
        raise CheckpointError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(executor._Job, "_finish", crash)
        with pytest.raises(CheckpointError):
            forge_it(path, tmp_path / "out")
    shard = tmp_path / "out/.forge/01-expert-prune/model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)

    made = forge_it(path, tmp_path / "out")

    assert made.resumed == 0
    assert made.stages[0]["proof"]["bytes"]["verdict"] == "confirmed"


FULL = """
import subprocess, sys
forge = [sys.executable, "-m", "forgekit", "forge", sys.argv[1], "--out", sys.argv[2] + "/out", "--offline"]
first = subprocess.run(forge, capture_output=True, text=True)
print(first.returncode, first.stderr.replace("\\n", " | "))
subprocess.run(["find", sys.argv[2] + "/out", "-name", "*.alloy.json"])
subprocess.run(["mount", "-o", "remount,size=200m", sys.argv[2]], check=True)
second = subprocess.run(forge, capture_output=True, text=True)
print(second.returncode, second.stdout.replace("\\n", " | "), second.stderr)
"""


def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare to mount a small disk with")
    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")
    disk = tmp_path / "disk"
    disk.mkdir()
    base("mixtral")  # made before, on the large disk
    (tmp_path / "full.py").write_text(FULL)
    shell = f"mount -t tmpfs -o size=6m none {disk} && exec {sys.executable} {tmp_path}/full.py {path} {disk}"
    ran = subprocess.run(
        [unshare, "-Urm", "sh", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    if ran.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {ran.stderr.strip()[-200:]}")

    first, second = ran.stdout.splitlines()
    assert first.startswith("2 error: cannot write the file: No space left on device")
    assert "make room and run the same command again" in first
    assert "Traceback" not in first
    assert second.startswith("0 ")
    assert "modelHash" in second


# Refusals.


def refused(path, out, **settings):
    with pytest.raises(ForgeError) as caught:
        forge_it(path, out, **settings)
    assert not out.exists() or not list(out.glob("*.alloy.json"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "stages", "more", "says"),
    [
        ("mixtral", [{"type": "expert-prune", "keepExperts": 6, "metric": "nonesuch"}], {}, "needs importance"),
        ("mixtral", [{"type": "expert-prune", "keepExperts": 9, "metric": "aimer"}], {}, "keeping 9 of 8"),
        ("mixtral", [{"type": "expert-prune", "keepExperts": 1, "metric": "aimer"}], {}, "fewer than the 2"),
        ("qwen2", [{"type": "expert-prune", "keepExperts": 6}], {}, "the model is dense"),
        ("mixtral", cut_experts("aimer"), {"cycles": 2}, "cannot reach twice"),
        ("qwen2", [{"type": "train", "steps": 1}], {}, "needs a corpus and names none"),
        ("qwen2", [TRAIN | {"learningRate": "fast"}], {}, "learningRate 'fast' is not a number"),
        ("qwen2", [TRAIN | {"dataset": "other"}], {}, "corpus 'other' is not at"),
        ("qwen2", [TRAIN | {"dataset": "../words"}], {}, "leaves the recipe's folder"),
        ("qwen2", [LORA | {"targetModules": ["w1"]}], {}, "targetModules names w1"),
        ("qwen2", [{"type": "validate-runtime", "runtime": "abacus"}], {}, "no runtime is named 'abacus'"),
        ("qwen2", [{"type": "quant", "format": "onnx", "quantTypes": ["x"]}], {}, "names 'x'; onnx has f32, int8"),
        ("qwen2", [{"type": "quant", "format": "gguf", "quantTypes": ["Q9"]}], {}, "names 'Q9'; gguf has F32"),
        ("qwen2", [{"type": "eval", "benchmarks": [{"name": "nonesuch"}]}], {}, "no benchmark is named"),
        ("qwen2", [{"type": "package", "format": "zip"}], {}, "'zip' is not one of safetensors"),
        ("qwen2", [{"type": "publish", "org": "a/b"}], {}, "is not a name an organisation can have"),
        ("qwen2", [{"type": "publish", "org": "a", "repoNameTemplate": "{nope}"}], {}, "repoNameTemplate has {nope}"),
        ("qwen2", [{"type": "context-extend", "method": "yarn", "targetLength": 1000}], {}, "less than 1024"),
        ("qwen2", [{"type": "modality", "modality": "vision", "encoderModel": "x"}], {}, "cannot do 'modality'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_is_written(name, stages, more, says, tmp_path):
    said = refused(a_recipe(name, stages, tmp_path / "recipe", **more), tmp_path / "out")

    assert says in said
    if not says.startswith(("keeping", "fewer")):
        assert not (tmp_path / "out").exists()


def test_every_problem_of_a_recipe_is_said_at_once(tmp_path):
    stages = [TRAIN | {"dataset": "a"}, TRAIN | {"dataset": "b"}]
    with pytest.raises(PlanError) as caught:
        forge_it(a_recipe("qwen2", stages, tmp_path / "recipe"), tmp_path / "out")

    assert "2 problems" in str(caught.value)
    assert "#/stages/0" in str(caught.value)
    assert "#/stages/1" in str(caught.value)


def test_a_corpus_of_another_text_is_refused(tmp_path):
    path = a_recipe("mixtral", CUT, tmp_path / "recipe")
    (path.parent / CORPUS).write_text('{"text": "another"}\n')

    assert "and the recipe pins sha256" in refused(path, tmp_path / "out").replace("pins ", "pins sha256")
    (path.parent / CORPUS).unlink()
    assert "corpus 'words' is not at" in refused(path, tmp_path / "out")


def test_a_corpus_without_a_hash_is_refused_with_the_hash_to_record(tmp_path):
    path = a_recipe("mixtral", CUT, tmp_path / "recipe")
    tree = json.loads(path.read_text())
    pinned = tree["calibrationCorpora"][0].pop("sha256")
    path.write_text(json.dumps(tree))

    said = refused(path, tmp_path / "out")
    assert "is not pinned by a hash" in said
    assert pinned in said


def test_a_folder_that_is_in_use_is_left_alone(tmp_path):
    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")

    assert "the folder is not empty (mine.txt)" in refused(path, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_unfinished_forge_of_another_recipe_is_left_alone(tmp_path):
    first = a_recipe("mixtral", [*cut_experts("aimer"), TRAIN | {"learningRate": "0.99"}], tmp_path / "a")
    second = a_recipe("mixtral", cut_experts("router_l2"), tmp_path / "b")
    (tmp_path / "out/.forge").mkdir(parents=True)
    (tmp_path / "out/.forge/recipe.json").write_text("0" * 64)

    assert "unfinished forge of another recipe" in refused(first, tmp_path / "out")
    assert "unfinished forge of another recipe" in refused(second, tmp_path / "out")


def test_a_base_of_another_architecture_is_refused(tmp_path):
    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")

    assert "architecture" in refused(path, tmp_path / "out", base=base("qwen2"))


def test_a_broken_base_is_found_before_anything_is_written(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])

    said = refused(a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe"), tmp_path / "out", base=folder)
    assert "cut short" in said
    assert not (tmp_path / "out").exists()


def test_a_pickled_base_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/pytorch_model.bin").write_bytes(b"\x80\x04.")

    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")
    assert "pickled" in refused(path, tmp_path / "out", base=tmp_path / "base")


def test_a_tiny_base_of_another_version_is_refused(tmp_path):
    path = a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe")
    tree = json.loads(path.read_text())
    tree["source"]["revision"] = "0" * 64
    path.write_text(json.dumps(tree))

    assert "made by another version of forgekit" in refused(path, tmp_path / "out")


def test_a_stage_that_touches_a_tower_is_stopped(tmp_path, monkeypatch):
    from forgekit.forge import executor

    digests = iter(["before", "after"])
    monkeypatch.setattr(executor, "tower_digest", lambda *_: next(digests))
    path = a_recipe("qwen2_5_vl", [heads("magnitude")], tmp_path / "recipe")

    assert "changed parameters under visual., which no stage may" in refused(path, tmp_path / "out")


def test_towers_are_the_same_bytes_after_every_stage(tmp_path):
    from tests.support.forged import VISION

    path = a_recipe("qwen3_vl", [VISION, heads("magnitude"), TRAIN | {"steps": 2}], tmp_path / "recipe")

    made = forge_it(path, tmp_path / "out")

    before, after = open_folder(base("qwen3_vl")), open_folder(made.folder)
    towers = [name for name in before.tensors if name.startswith("model.visual.")]
    assert len(towers) > 20
    assert all(before.read(name) == after.read(name) for name in towers)
    assert {row["towers"]["sha256"] for row in made.stages if "towers" in row} == {made.stages[1]["towers"]["sha256"]}


def test_a_failed_proof_keeps_nothing(tmp_path, monkeypatch):
    from forgekit.stages import STAGES
    from forgekit.surgery.experts import DroppedExperts

    stage = STAGES["expert-prune"]
    honest = stage.run

    def lying(work):
        from dataclasses import replace

        outcome = honest(work)
        kept = dict(outcome.surgery.kept) | {0: (0, 1, 2, 3, 4, 5)}
        return replace(outcome, surgery=DroppedExperts(kept=kept, experts=8))

    from dataclasses import replace

    monkeypatch.setitem(STAGES._loaded, "expert-prune", replace(stage, run=lying))
    path = a_recipe("mixtral", cut_experts("router_l2"), tmp_path / "recipe")

    assert "the surgery proof failed: logits differ" in refused(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_forge_without_proof_says_so(tmp_path):
    made = forge_it(a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe"), tmp_path / "out", prove=False)

    assert "--no-proof" in made.stages[0]["proof"]["skipped"]


def test_the_precision_of_the_recipe_is_the_one_that_is_trained_in(tmp_path):
    made = {
        precision: forge_it(
            a_recipe("qwen2", [TRAIN | {"precision": precision}], tmp_path / f"recipe-{precision}"),
            tmp_path / precision,
        ).stages[0]
        for precision in ("bf16", "fp32")
    }

    assert made["bf16"]["outputHash"] != made["fp32"]["outputHash"]
    assert made["bf16"]["lastLoss"] == pytest.approx(made["fp32"]["lastLoss"], rel=0.02)
    half = a_recipe("qwen2", [TRAIN | {"precision": "fp16"}], tmp_path / "half")
    assert "training in fp16 needs a GPU" in refused(half, tmp_path / "fp16")
