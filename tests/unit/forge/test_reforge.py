"""What was forged can be forged again and recomputed by a stranger; what was tampered with is named."""

from __future__ import annotations

import json
import shutil

import pytest

from forgekit import alloy
from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from forgekit.families import FAMILIES
from forgekit.forge.lineage import FolderCheckpointSource, prove_structure, rank_of_change
from forgekit.forge.record import hash_folder, hash_of
from forgekit.forge.reforge import again
from forgekit.sources.folder import FolderSource
from tests.support.forged import DISTIL, TRAIN, cut_experts, heads
from tests.support.hub import Hub, Repo, serving
from tests.support.models import a_recipe, base, forge_it
from tests.support.running import forgekit

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("reforge")
CHAIN = [*cut_experts("activation_count"), TRAIN, DISTIL, {"type": "package", "format": "safetensors"}]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An expert-pruned, twice trained artifact."""
    folder = tmp_path_factory.mktemp("published")
    return forge_it(a_recipe("mixtral", CHAIN, folder / "recipe"), folder / "out").folder


@pytest.fixture
def artifact(published, tmp_path):
    folder = tmp_path / "artifact"
    shutil.copytree(published, folder)
    return folder


def tree_of(folder):
    return FolderSource(folder).alloy().tree


def rewrite_alloy(folder, change):
    (path,) = folder.glob("*.alloy.json")
    tree = json.loads(path.read_text())
    change(tree)
    path.write_bytes(alloy.write(tree))


def regraded(folder, tmp_path):
    source = FolderSource(folder)
    return again(source.alloy(), source, beside=folder, folder=tmp_path)[0]


def structure(folder, name="mixtral", **options):
    source = FolderSource(folder)
    parent = FolderCheckpointSource(base(name))
    return prove_structure(parent, source, FAMILIES[name], source.alloy().tree, **options)


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_the_recipe_gives_the_published_bytes(artifact, tmp_path):
    found = regraded(artifact, tmp_path)

    assert (found.grade, found.holds, found.same_machine) == ("bitwise", True, True)


def test_an_exact_stage_that_gives_other_bytes_has_diverged_and_is_blamed(artifact, tmp_path):
    def lie(tree):
        tree["results"]["stages"][1]["outputHash"] = "sha256:" + "0" * 64
        tree["results"]["integrity"]["modelHash"] = "sha256:" + "0" * 64

    flip(artifact / "model.safetensors")
    rewrite_alloy(artifact, lie)

    found = regraded(artifact, tmp_path)
    assert (found.grade, found.holds, found.stage) == ("diverged", False, "1 (expert-prune)")
    assert "is exact and gave other bytes" in found.reason
    assert "1 values differ" in found.tensor
    assert "of model.safetensors" in found.tensor


def test_the_same_tensors_in_other_files_are_tensor_equal(tmp_path):
    made = forge_it(a_recipe("mixtral", cut_experts("aimer"), tmp_path / "recipe"), tmp_path / "out").folder
    repacked = forge_it(
        a_recipe("mixtral", [*cut_experts("aimer"), {"type": "package", "format": "safetensors"}], tmp_path / "other"),
        tmp_path / "repacked",
    ).folder
    for path in made.glob("model*"):
        path.unlink()
    shutil.copyfile(repacked / "model.safetensors", made / "model.safetensors")
    published = str(hash_of(hash_folder(made)))
    rewrite_alloy(made, lambda tree: tree["results"]["integrity"].update(modelHash=published))

    assert regraded(made, tmp_path / "again").grade == "tensor-equal"


def elsewhere(folder):
    """Say that it was made on another machine, so that training may differ."""
    path = folder / "forge/environment.json"
    lock = json.loads(path.read_text()) | {"processor": "another"}
    path.write_text(json.dumps(lock))


def other_training(folder, tmp_path, rate):
    """The same recipe trained at another rate, published as if by the first recipe."""
    stages = [cut_experts("aimer")[0], TRAIN | {"learningRate": rate}]
    made = forge_it(a_recipe("mixtral", stages, tmp_path / "published-recipe"), folder).folder
    rewrite_alloy(made, lambda tree: tree["stages"][1].update(learningRate="1e-3"))
    elsewhere(made)
    return made


def test_a_training_that_differs_a_little_on_another_machine_is_within_its_band(tmp_path):
    made = other_training(tmp_path / "made", tmp_path, "1.001e-3")

    found = regraded(made, tmp_path / "again")
    assert (found.grade, found.stage) == ("within-band", "1 (train)")
    assert "differ by" in found.reason


def test_a_training_that_differs_much_has_not_the_published_result(tmp_path):
    made = other_training(tmp_path / "made", tmp_path, "1e-1")

    found = regraded(made, tmp_path / "again")
    assert (found.grade, found.holds) == ("diverged", False)


def test_on_the_same_machine_training_must_give_the_same_bytes(tmp_path):
    stages = [cut_experts("aimer")[0], TRAIN | {"learningRate": "1.001e-3"}]
    made = forge_it(a_recipe("mixtral", stages, tmp_path / "recipe"), tmp_path / "made").folder
    rewrite_alloy(made, lambda tree: tree["stages"][1].update(learningRate="1e-3"))

    found = regraded(made, tmp_path / "again")
    assert found.grade == "diverged"
    assert "is exact on this machine" in found.reason


def test_heads_that_another_machine_ranks_otherwise_are_no_divergence_of_an_exact_stage(tmp_path):
    measured = heads("activation-magnitude")
    made = forge_it(a_recipe("qwen2", [measured], tmp_path / "recipe"), tmp_path / "made").folder
    other = forge_it(a_recipe("qwen2", [heads("random")], tmp_path / "other"), tmp_path / "published").folder
    rewrite_alloy(other, lambda tree: tree["stages"].__setitem__(0, measured))
    rewrite_alloy(other, lambda tree: tree["results"]["stages"][0].update(reproducibility="exact-here"))
    elsewhere(other)

    assert tree_of(made)["results"]["stages"][0]["reproducibility"] == "exact-here"
    assert regraded(made, tmp_path / "a").grade == "bitwise"
    found = regraded(other, tmp_path / "b")
    assert found.grade == "diverged"
    assert "the two cuts agree on" in found.reason


def test_every_tensor_is_recomputed_from_the_base_without_running_anything(published):
    found = structure(published)

    assert found.differences == ()
    assert found.compared == found.tensors == len(open_folder(published).tensors)


def test_a_sample_reads_a_part_and_says_what_it_would_catch(published):
    found = structure(published, sample=10, seed=3)

    assert found.differences == ()
    assert found.compared == 10
    assert found.read < found.full / 2
    assert 0.3 < found.would_catch < 0.4
    assert "10 of" in str(found)


@pytest.mark.parametrize("name", ["qwen2", "qwen3_5", "granitemoe"])
def test_cuts_of_every_layout_are_recomputed(name, tmp_path):
    stages = [heads("magnitude")] if name != "granitemoe" else cut_experts("router_l2")
    made = forge_it(a_recipe(name, stages, tmp_path / "recipe"), tmp_path / "out").folder

    assert structure(made, name).differences == ()


def test_one_flipped_bit_is_named_by_tensor_and_byte(artifact):
    flip(artifact / "model.safetensors")

    (said,) = structure(artifact).differences
    assert said.startswith("tensor '")
    assert "first at its byte" in said


def test_a_tampered_adapter_is_caught(artifact):
    flip(artifact / "forge/03-train/adapter.safetensors", -2)

    assert structure(artifact).differences


def test_a_tampered_keep_map_is_caught(artifact):
    path = artifact / "forge/02-expert-prune/expert_prune.metadata.v1.json"
    tree = json.loads(path.read_text())
    tree["kept"]["0"] = [0, 1, 2, 3, 4, 5] if tree["kept"]["0"] != [0, 1, 2, 3, 4, 5] else [1, 2, 3, 4, 5, 6]
    path.write_text(json.dumps(tree))

    assert structure(artifact).differences


def hide(folder, *stages):
    def edit(tree):
        for number in stages:
            tree["results"]["stages"][number]["files"] = []

    rewrite_alloy(folder, edit)


def test_a_cut_without_its_keep_map_cannot_be_recomputed(artifact):
    hide(artifact, 1)

    with pytest.raises(CheckpointError, match=r"stage 1 \(expert-prune\) changed tensors and left no keep-map"):
        structure(artifact)


def test_without_the_adapters_the_changes_must_still_be_of_low_rank(artifact):
    hide(artifact, 2, 3)

    found = structure(artifact)

    assert found.differences == ()
    assert found.low_rank == 8, "query, key, value and output of two layers"
    assert "8 of them differ by a change of low rank" in str(found)


def test_a_change_of_full_rank_is_no_adapters(artifact):
    import numpy as np

    from forgekit.models.training import from_float64, to_float64
    from tests.support.models import piece, rewrite

    hide(artifact, 2, 3)
    name = "model.layers.0.self_attn.q_proj.weight"
    noise = np.random.default_rng(2).normal(size=256 * 256) * 0.05
    source = open_folder(artifact)
    data = from_float64(to_float64(source.read(name), "BF16", name) + noise, "BF16")
    spoilt = rewrite(artifact, lambda pieces: pieces.update({name: piece(source, name, data=data)}))
    shutil.copytree(artifact / "forge", spoilt / "forge")

    (said,) = structure(spoilt).differences
    assert f"tensor {name!r} differs from the base's by a change of rank" in said


def test_a_tensor_that_takes_no_adapter_must_be_untouched(artifact):
    from tests.support.models import piece, rewrite

    hide(artifact, 2, 3)
    name = "model.norm.weight"
    source = open_folder(artifact)
    spoilt = rewrite(artifact, lambda p: p.update({name: piece(source, name, data=bytes(512))}))
    shutil.copytree(artifact / "forge", spoilt / "forge")

    (said,) = structure(spoilt).differences
    assert "no adapter is put on such a tensor" in said


def test_a_stranger_does_it_over_the_network_by_ranges(tmp_path):
    path = a_recipe("mixtral", CHAIN, tmp_path / "recipe")
    tree = json.loads(path.read_text())
    tree["source"] = {"baseModel": "lab/base", "architecture": "mixtral"}
    tree["stages"][3]["teacher"] = "base"
    path.write_text(json.dumps(tree))
    made = forge_it(path, tmp_path / "out", base=base("mixtral")).folder
    files = {entry.relative_to(made).as_posix(): entry.read_bytes() for entry in made.rglob("*") if entry.is_file()}
    repos = {"lab/base": Repo({entry.name: entry.read_bytes() for entry in base("mixtral").iterdir()})}
    repos |= {"lab/forged": Repo(files)}
    spoilt = bytearray(files["model.safetensors"])
    spoilt[-1] ^= 1
    repos["lab/tampered"] = Repo(files | {"model.safetensors": bytes(spoilt)})
    with serving(Hub(repos)) as hub:
        env = hub.environment(tmp_path)
        sampled = forgekit("reforge", "hf://lab/forged", "--sample", "5", "--seed", "1", "--json", env=env)
        whole = forgekit("reforge", "hf://lab/tampered", "--structure", env=env)

    assert sampled.code == 0, sampled.err
    assert sampled.json["compared"] == 5
    assert sampled.json["read"] < sampled.json["full"] / 3
    assert whole.code == 1
    assert "refuted    tensor '" in whole.out


def test_the_rank_of_a_merged_update_is_seen_through_its_rounding():
    import numpy as np

    from forgekit.models.training import from_float64, to_float64

    draw = np.random.default_rng(1)
    before = from_float64(draw.normal(size=(96, 128)) * 0.1, "BF16")
    update = draw.normal(size=(96, 4)) @ draw.normal(size=(4, 128)) * 0.05
    after = from_float64(to_float64(before, "BF16", "x").reshape(96, 128) + update, "BF16")
    full = from_float64(to_float64(before, "BF16", "x").reshape(96, 128) + draw.normal(size=(96, 128)) * 0.05, "BF16")

    assert rank_of_change(before, after, "BF16", (96, 128)) == 4
    assert rank_of_change(before, before, "BF16", (96, 128)) == 0
    assert rank_of_change(before, full, "BF16", (96, 128)) > 60


def test_an_honest_adapter_beside_other_weights_is_no_confirmation(tmp_path):
    made = other_training(tmp_path / "made", tmp_path, "1.001e-3")
    flip(made / "model-00001-of-00002.safetensors")

    found = regraded(made, tmp_path / "again")
    assert (found.grade, found.holds) == ("diverged", False)
    assert "the published weights do not follow from it" in found.reason


def test_a_publisher_cannot_call_an_exact_stage_statistical(artifact, tmp_path):
    def lie(tree):
        row = tree["results"]["stages"][1]
        row |= {"outputHash": "sha256:" + "0" * 64, "reproducibility": "statistical"}
        tree["results"]["integrity"]["modelHash"] = "sha256:" + "0" * 64

    rewrite_alloy(artifact, lie)

    assert regraded(artifact, tmp_path).grade == "diverged"


def test_a_model_hash_that_no_recorded_stage_gives_has_diverged(artifact, tmp_path):
    rewrite_alloy(artifact, lambda tree: tree["results"]["integrity"].update(modelHash="sha256:" + "0" * 64))

    assert "do not give the published modelHash" in regraded(artifact, tmp_path).reason
