"""Positions stretch, towers stay, precision falls where it may, and packages hold the same bytes."""

from __future__ import annotations

import json
import math

import pytest

from forgekit.checkpoint.gguf import read_header as read_gguf
from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError, MachineError
from forgekit.families import FAMILIES, Experts, RotaryPositions, Towers
from forgekit.stages import STAGES
from tests.support.models import DENSE, MIXTURES, base, copy_of, rewrite, run_stage, set_config

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("stages")
ROTARY = sorted(name for name, family in FAMILIES.items() if family.fact(RotaryPositions))


def text_config(folder, name):
    tree = json.loads((folder / "config.json").read_text())
    for key in FAMILIES[name].fact(RotaryPositions).config:
        tree = tree[key]
    return tree


STRETCHES = [(name, method) for name in ROTARY for method in FAMILIES[name].fact(RotaryPositions).methods]


@pytest.mark.parametrize(("name", "method"), STRETCHES)
def test_a_stretched_model_generates_past_its_old_length(name, method, tmp_path):
    outcome = run_stage("context-extend", name, tmp_path / "out", method=method, targetLength=1024)

    tree = text_config(tmp_path / "out", name)
    assert tree["max_position_embeddings"] == 1024
    assert outcome.notes["generation"] == "8 tokens generated at positions 513 to 520"
    before, after = open_folder(base(name)), open_folder(tmp_path / "out")
    assert all(before.read(tensor) == after.read(tensor) for tensor in before.tensors)


def test_yarn_says_its_factor_and_the_length_it_is_of(tmp_path):
    run_stage("context-extend", "qwen2", tmp_path / "out", method="yarn", targetLength=2048)

    assert text_config(tmp_path / "out", "qwen2")["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    }


def test_ntk_raises_the_base_by_its_rule(tmp_path):
    run_stage("context-extend", "qwen3", tmp_path / "out", method="ntk", targetLength=2048)

    raised = text_config(tmp_path / "out", "qwen3")["rope_theta"]
    assert raised == pytest.approx(50000.0 * 4 ** (64 / 62))


def test_a_stretch_really_changes_what_the_model_computes(tmp_path):
    from forgekit.forge.proof import logits
    from forgekit.models.loading import load

    run_stage("context-extend", "qwen2", tmp_path / "out", method="linear", targetLength=2048)

    before, after = (logits(load(folder, FAMILIES["qwen2"])) for folder in (base("qwen2"), tmp_path / "out"))
    assert float((before - after).abs().max()) > 0.01


def test_a_length_that_is_not_longer_is_refused(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    set_config(folder, max_position_embeddings=4096)

    with pytest.raises(CheckpointError, match="targetLength 2048 does not exceed the model's 4096"):
        run_stage("context-extend", "qwen2", tmp_path / "out", source=folder, method="yarn", targetLength=2048)


def test_the_base_must_be_stated_to_be_raised(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    tree = json.loads((folder / "config.json").read_text())
    del tree["rope_theta"]
    (folder / "config.json").write_text(json.dumps(tree))

    with pytest.raises(CheckpointError, match="no rope_theta"):
        run_stage("context-extend", "qwen2", tmp_path / "out", source=folder, method="ntk", targetLength=2048)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].fact(Towers)])
def test_towers_and_token_ids_are_there(name, tmp_path):
    modality = FAMILIES[name].fact(Towers).modalities[-1]

    notes = run_stage("modality", name, tmp_path / "out", modality=modality, encoderModel="its own").notes

    assert len(notes["tokens"]) == len(FAMILIES[name].fact(Towers).token_keys)
    assert all(count > 0 for count in notes["towerTensors"].values())


def test_a_missing_tower_token_or_config_is_named(tmp_path):
    def said(folder):
        with pytest.raises(CheckpointError) as caught:
            run_stage("modality", "qwen3_vl", tmp_path / "out", source=folder, modality="vision", encoderModel="x")
        return caught.value.what

    folder = copy_of("qwen3_vl", tmp_path)
    tree = json.loads((folder / "config.json").read_text())

    def without(key):
        (folder / "config.json").write_text(json.dumps({k: v for k, v in tree.items() if k != key}))
        return folder

    assert "no vision_config" in said(without("vision_config"))
    assert "no video_token_id" in said(without("video_token_id"))
    without("nothing")
    blind = rewrite(folder, lambda p: [p.pop(n) for n in list(p) if n.startswith("model.visual.")])
    assert "no tensor is named model.visual." in said(blind)


def test_a_package_holds_the_same_tensors_in_fewer_files(tmp_path):
    run_stage("package", "mixtral", tmp_path / "one", format="safetensors")
    run_stage("package", "mixtral", tmp_path / "many", format="safetensors", shardBytes=3_000_000)

    source, one, many = (open_folder(folder) for folder in (base("mixtral"), tmp_path / "one", tmp_path / "many"))
    assert list(one.files) == ["model.safetensors"]
    assert len(many.files) > 4
    for name in source.tensors:
        assert source.read(name) == one.read(name) == many.read(name)


def test_a_package_without_a_tokenizer_is_refused_unless_the_recipe_wants_none(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    for path in folder.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(CheckpointError, match="no tokenizer to package"):
        run_stage("package", "qwen2", tmp_path / "a", source=folder, format="safetensors")
    assert run_stage("package", "qwen2", tmp_path / "b", source=folder, format="safetensors", includeTokenizer=False)


def test_a_source_config_is_held_against_the_base(tmp_path):
    assert run_stage("source-config", "qwen2", tmp_path / "a", contextLength=512).notes["positions"] == 512
    with pytest.raises(CheckpointError, match="contextLength is 4096 and the base has 512 positions"):
        run_stage("source-config", "qwen2", tmp_path / "b", contextLength=4096)
    with pytest.raises(CheckpointError, match="inputModalities names 'vision'; qwen2 takes text"):
        run_stage("source-config", "qwen2", tmp_path / "c", inputModalities=["text", "vision"])


@pytest.mark.parametrize("name", DENSE)
def test_width_and_depth_are_cut_by_what_a_corpus_shows(name, tmp_path):
    run_stage("ffn-prune", name, tmp_path / "narrow", level=0.3, calibrationCorpus="words")
    run_stage("depth-prune", name, tmp_path / "shallow", keepLayers=1, calibrationCorpus="words")

    cut = json.loads((tmp_path / "narrow/surgery.json").read_text())
    assert {len(row) for row in cut["kept"].values()} == {512}, "768 less a third, in multiples of 256"
    tree = json.loads((tmp_path / "shallow/surgery.json").read_text())
    assert tree["kept"] == [max(range(2), key=lambda layer: tree["scores"][layer])]


def test_a_width_that_rounds_to_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="leaves 77 of 768 neurons, 0 in multiples of 256"):
        run_stage("ffn-prune", "qwen2", tmp_path / "out", level=0.9, calibrationCorpus="words")


def importance(path, scores):
    tree = {"metric": "activation_count", "scores": {str(layer): scores for layer in range(2)}}
    path.write_text(json.dumps(tree))
    return path


def test_precision_falls_with_use(tmp_path):
    from forgekit.models.training import to_float64

    scores = [100.0, 65.0, 45.0, 25.0, 15.0, 5.0, 90.0, 80.0]
    path = importance(tmp_path / "importance.json", scores)

    outcome = run_stage("compact", "mixtral", tmp_path / "out", importance=path)

    assert outcome.notes["units"] == {"dead": 2, "dormant": 2, "low": 2, "medium": 2, "high": 2, "full": 6}
    before, after = open_folder(base("mixtral")), open_folder(tmp_path / "out")
    levels = {0: None, 1: 255, 2: 15, 3: 7, 4: 3, 5: 1, 6: None}
    for expert, most in levels.items():
        name = f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"
        old, new = (to_float64(made.read(name), "BF16", name).reshape(-1, 32) for made in (before, after))
        if most is None:
            assert (old == new).all()
            continue
        assert max(len(set(block)) for block in new) <= most
        worst = abs(old - new).max()
        assert worst <= abs(old).max() / max((most - 1) / 2, 0.5) / 2 + 0.01 or most == 1
    assert not after.read("model.layers.1.block_sparse_moe.experts.5.w1.weight").strip(b"\0")
    assert before.read("model.layers.0.block_sparse_moe.gate.weight") == after.read(
        "model.layers.0.block_sparse_moe.gate.weight"
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_every_mixture_can_be_compacted_and_loads(name, tmp_path):
    from forgekit.models.loading import load

    layers = [1, 2] if name == "deepseek_v2" else [0, 1]
    tree = {"metric": "ean", "scores": {str(layer): [1.0, 2, 3, 4, 5, 6, 7, 8] for layer in layers}}
    (tmp_path / "importance.json").write_text(json.dumps(tree))

    run_stage("compact", name, tmp_path / "out", importance=tmp_path / "importance.json")

    assert load(tmp_path / "out", FAMILIES[name]).faults == {}
    assert FAMILIES[name].fact(Experts)


def test_a_target_that_cannot_be_met_is_refused_with_the_size_it_has(tmp_path):
    path = importance(tmp_path / "importance.json", [1.0] * 8)

    with pytest.raises(CheckpointError, match=r"the weights need 0\.014 GB and targetSizeGb is 0\.001"):
        run_stage("compact", "mixtral", tmp_path / "out", importance=path, targetSizeGb=0.001)


def test_another_dtype_is_rounded_once(tmp_path):
    run_stage("quant", "qwen2", tmp_path / "out", format="safetensors", quantTypes=["f16", "f32"])

    before = open_folder(base("qwen2"))
    for kind, dtype in (("f16", torch.float16), ("f32", torch.float32)):
        made = open_folder(tmp_path / f"out/safetensors-{kind}")
        for name in before.tensors:
            old = torch.frombuffer(bytearray(before.read(name)), dtype=torch.bfloat16)
            new = torch.frombuffer(bytearray(made.read(name)), dtype=dtype)
            assert torch.equal(old.to(dtype), new)
    assert json.loads((tmp_path / "out/safetensors-f16/config.json").read_text())["torch_dtype"] == "float16"


def test_values_that_float16_cannot_hold_are_an_error(tmp_path):
    from tests.support.models import piece

    folder = copy_of("qwen2", tmp_path)
    name = "model.norm.weight"
    big = bytes(torch.full((256,), 1e6, dtype=torch.bfloat16).view(torch.uint16).numpy().tobytes())
    spoilt = rewrite(folder, lambda p: p.update({name: piece(open_folder(folder), name, data=big)}))

    with pytest.raises(CheckpointError, match="holds values that float16 cannot"):
        run_stage("quant", "qwen2", tmp_path / "out", source=spoilt, format="safetensors", quantTypes=["f16"])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_bitsandbytes_files_load_again(kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    import transformers

    run_stage("quant", "qwen2", tmp_path / "out", format="safetensors", quantTypes=[kind])

    folder = tmp_path / f"out/bitsandbytes-{kind}"
    assert (folder / "model.safetensors").stat().st_size < (base("qwen2") / "model.safetensors").stat().st_size
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    out = model(input_ids=torch.tensor([[5, 6, 7]])).logits.detach()
    assert math.isfinite(float(out.sum()))


def llama_cpp_missing():
    from forgekit.models import llama_cpp
    from forgekit.models.tools import require

    try:
        llama_cpp.sources()
        require("llama_cpp", "llama_cpp")
    except MachineError as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(llama_cpp_missing()), reason=f"unchecked: {llama_cpp_missing()}")
def test_gguf_comes_from_llama_cpps_own_tools_and_is_the_same_twice(tmp_path):
    from forgekit.checkpoint import gguf

    kinds = ["F16", "Q8_0", "Q4_K_M"]
    for name in "ab":
        run_stage("quant", "qwen2", tmp_path / name, format="gguf", quantTypes=kinds, preTokenizer="qwen2")

    sizes = []
    for kind in kinds:
        path = tmp_path / f"a/test-{kind}.gguf"
        assert path.read_bytes() == (tmp_path / f"b/test-{kind}.gguf").read_bytes()
        data = path.read_bytes()
        header = gguf.read_header(lambda start, size, data=data: data[start : start + size], len(data), str(path))
        assert len(header.tensors) == 27
        sizes.append(len(data))
    assert sizes == sorted(sizes, reverse=True)
    assert not list((tmp_path / "a").glob(".*"))


@pytest.mark.skipif(bool(llama_cpp_missing()), reason=f"unchecked: {llama_cpp_missing()}")
def test_what_the_converter_refuses_is_said_in_its_own_words(tmp_path):
    model = copy_of("qwen2", tmp_path)
    tree = json.loads((model / "tokenizer.json").read_text())
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}
    (model / "tokenizer.json").write_text(json.dumps(tree))

    with pytest.raises(CheckpointError, match="BPE pre-tokenizer was not recognized"):
        run_stage("quant", "qwen2", tmp_path / "out", source=model, format="gguf", quantTypes=["F16"])


@pytest.mark.skipif(bool(llama_cpp_missing()), reason=f"unchecked: {llama_cpp_missing()}")
def test_a_vocabulary_the_converter_does_not_list_is_named_by_its_splitting_pattern(tmp_path):
    run_stage("quant", "qwen2", tmp_path / "out", format="gguf", quantTypes=["F16"])

    file = next((tmp_path / "out").glob("*.gguf"))
    header = read_gguf(lambda start, size: file.read_bytes()[start : start + size], file.stat().st_size, str(file))
    assert header.metadata["tokenizer.ggml.pre"] == "gpt-2"


def test_a_machine_without_llama_cpp_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("FORGEKIT_LLAMA_CPP", str(tmp_path))

    with pytest.raises(MachineError, match="converter is not here") as caught:
        run_stage("quant", "qwen2", tmp_path / "out", format="gguf", quantTypes=["F16"])
    assert "FORGEKIT_LLAMA_CPP" in caught.value.hint


def test_a_machine_without_mlx_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FORGEKIT_RUNTIME_MLX_PYTHON", str(tmp_path / "nowhere"))

    with pytest.raises(MachineError, match="cannot be run"):
        run_stage("quant", "qwen2", tmp_path / "out", format="mlx", quantTypes=["4bit"])


def test_every_stage_that_is_planned_for_some_family_is_forged_or_says_why_not():
    left = {name for name, stage in STAGES.items() if stage.run is None}

    assert left == {
        *("many-worlds-substrate", "many-worlds-adapter", "many-worlds-ensemble", "team-search", "gate-profile"),
        *("population-prune", "cv-ingest", "cv-eval"),
    }
