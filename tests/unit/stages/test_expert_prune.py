"""Expert-prune as a stream gives what transformers would, reads nothing it need not, and refuses what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from forgekit.families import FAMILIES, Experts
from tests.support.models import MIXTURES, base, copy_of, piece, rewrite, run_stage, set_config
from tests.support.running import ROOT

COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


def pruned(name, folder, **params):
    run_stage("expert-prune", name, folder, **{"keepExpertsPerLayer": 6, "metric": "router_l2", **params})
    return open_folder(folder)


def kept_by(folder):
    tree = json.loads((folder / "expert_prune.metadata.v1.json").read_text())
    return {int(layer): row for layer, row in tree["kept"].items()}


@pytest.mark.xdist_group("oracle")
@pytest.mark.parametrize("name", ["deepseek_v2", "granitemoe", "mixtral", "olmoe", "phimoe", "qwen3_moe"])
def test_every_tensor_equals_what_transformers_gives_by_load_slice_and_save(name, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from forgekit.models.loading import load

    made = pruned(name, tmp_path / "ours")
    kept = kept_by(tmp_path / "ours")
    model = load(base(name), FAMILIES[name], dtype="bfloat16").whole
    fact = FAMILIES[name].fact(Experts)
    for layer, rows in kept.items():
        block = model.get_submodule(f"model.layers.{layer}")
        experts, router = block.get_submodule(fact.experts_module), block.get_submodule(fact.router_module)
        for tensor in ("gate_up_proj", "down_proj"):
            setattr(experts, tensor, torch.nn.Parameter(getattr(experts, tensor)[rows].clone()))
        owner = router.layer if hasattr(router, "layer") else router
        owner.weight = torch.nn.Parameter(owner.weight[rows].clone())
    model.save_pretrained(tmp_path / "theirs")

    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert set(theirs) == set(made.tensors)
    for tensor, value in theirs.items():
        assert value.contiguous().view(torch.uint16).numpy().tobytes() == made.read(tensor), tensor


@pytest.mark.parametrize("name", MIXTURES)
def test_only_the_number_of_experts_changes_in_the_config(name, tmp_path):
    pruned(name, tmp_path / "out")
    before = (base(name) / "config.json").read_text().splitlines()
    after = (tmp_path / "out" / "config.json").read_text().splitlines()

    changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    ((old, new),) = changed
    assert old.split('"')[1] in COUNT_KEYS
    assert (old.split(":")[1], new.split(":")[1]) == (" 8,", " 6,")


def test_tokenizer_files_come_along_as_files(tmp_path):
    pruned("mixtral", tmp_path / "out")

    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base("mixtral") / name).read_bytes()
        assert not (tmp_path / "out" / name).is_symlink()


def test_shared_experts_and_dense_layers_are_bit_exact(tmp_path):
    source, made = open_folder(base("deepseek_v2")), pruned("deepseek_v2", tmp_path / "out")
    still = [name for name in source.tensors if "shared_experts" in name or ".layers.0." in name]

    assert len(still) > 10
    assert all(source.read(name) == made.read(name) for name in still)


def test_groups_keep_equally_many_experts(tmp_path):
    pruned("deepseek_v2", tmp_path / "out")

    for row in kept_by(tmp_path / "out").values():
        assert sum(expert < 4 for expert in row) == sum(expert >= 4 for expert in row) == 3


def test_the_sidecar_says_what_was_chosen_and_by_what(tmp_path):
    run_stage("expert-prune", "mixtral", tmp_path / "out", keepExperts=5, metric="aimer")
    tree = json.loads((tmp_path / "out" / "expert_prune.metadata.v1.json").read_text())

    assert tree["selection"]["metric"] == "aimer"
    assert tree["selection"]["layout_family"] == "block_sparse_moe-unfused"
    assert tree["selection"]["per_layer_kept_count"] == 5
    assert tree["tensors"] == {"kept_unchanged": 15, "kept_renamed": 30, "sliced": 2, "dropped_expert": 18}


def test_published_words_for_metrics_are_understood(tmp_path):
    run_stage(
        "expert-prune", "mixtral", tmp_path / "a", keepExperts=6, strategy="per-layer-normalized-router-importance"
    )
    pruned("mixtral", tmp_path / "b")

    assert kept_by(tmp_path / "a") == kept_by(tmp_path / "b")


def refused(folder, name, *, source=None, **params):
    with pytest.raises(CheckpointError) as caught:
        run_stage("expert-prune", name, folder / "out", source=source, **{"metric": "router_l2", **params})
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("mixtral", {"keepExperts": 8}, "keeping 8 of 8 experts removes none"),
        ("mixtral", {"keepExperts": 9}, "keeping 9 of 8 experts removes none"),
        ("mixtral", {"keepExperts": 1}, "fewer than the 2 each token is routed to"),
        ("deepseek_v2", {"keepExperts": 5}, "5 is not a multiple"),
        ("deepseek_v2", {"keepExperts": 2}, "fewer than the 2 each token is routed to"),
        ("mixtral", {"keepExperts": 6, "originalExpertsPerLayer": 16}, "says 16 experts per layer and the model has 8"),
    ],
)
def test_a_number_that_cannot_be_kept_is_refused(name, params, says, tmp_path):
    assert says in refused(tmp_path, name, **params)


def test_a_missing_expert_is_named(tmp_path):
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    spoilt = rewrite(copy_of("mixtral", tmp_path), lambda pieces: pieces.pop(name))

    assert f"no tensor {name!r}" in refused(tmp_path, "mixtral", source=spoilt, keepExperts=6)


def test_an_expert_too_many_is_named(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    extra = "model.layers.0.block_sparse_moe.experts.8.w1.weight"
    first = "model.layers.0.block_sparse_moe.experts.0.w1.weight"

    spoilt = rewrite(folder, lambda p: p.update({extra: piece(open_folder(folder), first, as_name=extra)}))

    assert f"{extra!r} is an expert beyond the 8" in refused(tmp_path, "mixtral", source=spoilt, keepExperts=6)


def test_a_config_of_another_count_is_refused(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    set_config(folder, num_local_experts=16)

    assert "is [8, 256] and the config says 16 experts" in refused(tmp_path, "mixtral", source=folder, keepExperts=6)


def test_two_counts_that_differ_are_refused(tmp_path):
    folder = copy_of("qwen3_moe", tmp_path)
    set_config(folder, num_local_experts=4)

    assert "several numbers of experts" in refused(tmp_path, "qwen3_moe", source=folder, keepExperts=6)


def test_weights_that_are_no_numbers_are_named(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    name = "model.layers.1.block_sparse_moe.gate.weight"
    data = b"\xc0\x7f" + open_folder(folder).read(name)[2:]

    spoilt = rewrite(folder, lambda pieces: pieces.update({name: piece(open_folder(folder), name, data=data)}))

    said = refused(tmp_path, "mixtral", source=spoilt, keepExperts=6)
    assert "not a number in layer 1" in said
    assert name in said


def test_experts_of_several_dtypes_are_refused(tmp_path):
    from forgekit.checkpoint.writing import Made, Piece

    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    wide = Piece(name, "F32", (512, 256), (Made(lambda: bytes(512 * 256 * 4), 512 * 256 * 4),))
    spoilt = rewrite(copy_of("mixtral", tmp_path), lambda pieces: pieces.update({name: wide}))

    assert "several dtypes" in refused(tmp_path, "mixtral", source=spoilt, keepExperts=6)


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    said = refused(tmp_path, "mixtral", source=base("granitemoe"), keepExperts=6)

    assert "no tensor is named like model.layers.{layer}.block_sparse_moe.gate.weight" in said
    assert "architecture" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: tree.update(metric="ean"), "is of 'ean' and the recipe ranks by 'activation_count'"),
        (lambda tree: tree.update(num_experts=16), "of 16 experts and the model has 8"),
        (lambda tree: tree["scores"].pop("1"), "layer 1 is missing"),
        (lambda tree: tree["scores"].update({"1": [1.0]}), "layer 1 has 1 values; 8 are needed"),
        (lambda tree: tree["scores"].update({"0": [None] * 8}), "layer 0 holds what is not a number"),
        (lambda tree: tree["scores"].update({"0": [float("nan")] * 8}), "expert 0 has no score"),
    ],
)
def test_an_importance_file_that_does_not_fit_is_refused(change, says, tmp_path):
    scores = {str(layer): [float(e) for e in range(8)] for layer in range(2)}
    tree = {"metric": "activation_count", "num_experts": 8, "scores": scores}
    change(tree)
    path = tmp_path / "importance.json"
    path.write_text(json.dumps(tree))

    said = refused(tmp_path, "mixtral", keepExperts=6, metric="activation_count", importance=path)
    assert says in said


def test_a_published_file_of_counts_is_read(tmp_path):
    path = tmp_path / "importance.json"
    counts = {"0": [5, 1, 5, 5, 2, 5, 5, 5], "1": [1, 2, 3, 4, 5, 6, 7, 8]}
    path.write_text(json.dumps({"metric_version": "v1.activation_count", "activation_counts": counts}))

    run_stage("expert-prune", "mixtral", tmp_path / "out", keepExperts=6, metric="activation_count", importance=path)

    assert kept_by(tmp_path / "out") == {0: [0, 2, 3, 5, 6, 7], 1: [2, 3, 4, 5, 6, 7]}


STREAM = """
import json, sys
from pathlib import Path
from forgekit.checkpoint.writing import Piece, Span, write_file, write_text
from forgekit.families import FAMILIES, Experts
from forgekit.stages import STAGES, Work
folder = Path(sys.argv[1])
size = 4 << 20
with (folder / "zeros").open("wb") as file:
    file.truncate(2 * size)
layer = "model.layers.0.block_sparse_moe."
pieces = [Piece(layer + "gate.weight", "BF16", (32, 2048), (Span(folder / "zeros", 0, 32 * 4096),))]
for e in range(32):
    for w, shape in (("w1", (1024, 2048)), ("w3", (1024, 2048)), ("w2", (2048, 1024))):
        pieces.append(Piece(f"{layer}experts.{e}.{w}.weight", "BF16", shape, (Span(folder / "zeros", 0, size),)))
(folder / "base").mkdir(); (folder / "out").mkdir()
write_file(folder / "base" / "model.safetensors", pieces, durable=False)
config = {"num_local_experts": 32, "num_experts_per_tok": 2, "model_type": "mixtral"}
write_text(folder / "base" / "config.json", json.dumps(config))
family, stage = FAMILIES["mixtral"], STAGES["expert-prune"]
params = stage.params.parse({"type": "expert-prune", "metric": "aimer", "keepExperts": 16})
stage.run(Work(params=params, family=family, fact=family.fact(Experts), source=folder / "base", out=folder / "out",
               corpus=Path, model=Path))
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"rss": peak, "torch": "torch" in sys.modules,
                  "bytes": (folder / "base" / "model.safetensors").stat().st_size}))
"""


def test_four_hundred_megabytes_are_cut_in_less_than_a_hundred_without_torch(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", STREAM, tmp_path], capture_output=True, text=True, cwd=ROOT, timeout=300, check=True
    )
    found = json.loads(ran.stdout)

    assert found["bytes"] > 400_000_000
    assert found["rss"] < 100 << 10  # KiB
    assert not found["torch"]
