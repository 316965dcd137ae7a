"""The surgery proof passes what is right, and catches what merely loads."""

from __future__ import annotations

import json

import pytest

from forgekit.checkpoint.opening import open_folder
from forgekit.families import FAMILIES, AttentionHeads, Experts, FeedForward, FusedExperts
from forgekit.forge.proof import prove
from forgekit.surgery import perform, read, write
from forgekit.surgery.experts import DroppedExperts, mixture
from forgekit.surgery.heads import CutHeads, attention
from forgekit.surgery.layers import CutLayers
from forgekit.surgery.neurons import CutNeurons, width
from tests.support.models import DENSE, HEADED, MIXTURES, base, content, piece, rewrite, set_config

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("proof")
KEPT = (0, 2, 3, 5, 6, 7)


def cut_of(name):
    """Six of eight experts, other ones in each layer."""
    made = mixture(open_folder(base(name)), FAMILIES[name].fact(Experts))
    rows = {layer: tuple(sorted((expert + layer) % 8 for expert in KEPT)) for layer in made.layers}
    if made.groups > 1:
        rows = dict.fromkeys(made.layers, (0, 1, 3, 4, 6, 7))
    return DroppedExperts(kept=rows, experts=8)


def cut_experts(name, folder):
    folder.mkdir()
    surgery = cut_of(name)
    perform(surgery, FAMILIES[name], base(name), folder)
    return folder, surgery


def proven(name, made, surgery):
    return prove(base(name), made, FAMILIES[name], surgery)


@pytest.mark.parametrize("name", MIXTURES)
def test_dropped_experts_are_proven_for_every_mixture(name, tmp_path):
    found = proven(name, *cut_experts(name, tmp_path / "cut"))

    assert (found.loads, found.logits, found.bytes) == ("confirmed",) * 3, found


def every_third(name):
    made = attention(open_folder(base(name)), FAMILIES[name].fact(AttentionHeads))
    return made, {
        layer: tuple(head for head in range(made.heads) if head % max(made.group, 4) == layer % max(made.group, 4))
        for layer in made.layers
    }


@pytest.mark.parametrize("name", HEADED)
def test_zeroed_heads_are_proven_for_every_family_with_heads(name, tmp_path):
    made, gone = every_third(name)
    surgery = CutHeads(gone=gone, heads=made.heads)
    perform(surgery, FAMILIES[name], base(name), tmp_path)

    found = proven(name, tmp_path, surgery)
    assert (found.loads, found.logits, found.bytes) == ("confirmed",) * 3, found


@pytest.mark.parametrize("name", [name for name in HEADED if not FAMILIES[name].fact(AttentionHeads).uncuttable])
def test_heads_that_are_cut_out_are_proven_where_that_is_possible(name, tmp_path):
    made, gone = every_third(name)
    surgery = CutHeads(gone=gone, heads=made.heads, mode="slice")
    perform(surgery, FAMILIES[name], base(name), tmp_path)

    found = proven(name, tmp_path, surgery)
    assert (found.loads, found.logits, found.bytes) == ("confirmed",) * 3, found


@pytest.mark.parametrize("name", DENSE)
def test_narrower_and_shallower_models_are_proven(name, tmp_path):
    layers, neurons = width(open_folder(base(name)), FAMILIES[name].fact(FeedForward))
    cuts = [
        CutNeurons(kept={layer: tuple(range(layer, neurons, 3)) for layer in layers}, neurons=neurons),
        CutLayers(kept=(1,), layers=2),
    ]
    for surgery in cuts:
        out = tmp_path / surgery.kind
        out.mkdir()
        perform(surgery, FAMILIES[name], base(name), out)

        found = proven(name, out, surgery)
        assert (found.loads, found.logits, found.bytes) == ("confirmed",) * 3, found


# What a popular pruner writes: it loads, it generates, and four families are wrong.


@pytest.mark.parametrize("name", ["mixtral", "phimoe"])
def test_experts_under_another_familys_names_are_caught(name, tmp_path):
    """w1, w3 and w2 written as gate_proj, up_proj and down_proj: the loader makes the experts up."""
    made, surgery = cut_experts(name, tmp_path / "cut")

    def rename(pieces):
        for old, new in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            for tensor in [tensor for tensor in pieces if f".{old}." in tensor]:
                pieces[tensor] = piece(open_folder(made), tensor, as_name=tensor.replace(f".{old}.", f".{new}."))

    found = proven(name, rewrite(made, rename), surgery)
    assert found.loads == "refuted"
    assert "missing_keys" in found.loads_why
    assert found.bytes == "refuted"


def test_fused_experts_written_apart_are_caught(tmp_path):
    """GraniteMoE's stacked tensors written one per expert."""
    made, surgery = cut_experts("granitemoe", tmp_path / "cut")
    source = open_folder(made)

    def unfuse(pieces):
        from forgekit.checkpoint.writing import Made, Piece

        for tensor in [tensor for tensor in pieces if tensor.endswith(("input_linear.weight", "output_linear.weight"))]:
            whole = content(pieces.pop(tensor))
            shape = source[tensor].tensor.shape
            size = len(whole) // shape[0]
            for expert in range(shape[0]):
                part = whole[expert * size : (expert + 1) * size]
                name = tensor.replace("_linear.weight", f"_linear.{expert}.weight")
                pieces[name] = Piece(name, "BF16", shape[1:], (Made(lambda p=part: p, size),))

    found = proven("granitemoe", rewrite(made, unfuse), surgery)
    assert found.loads == "refuted"
    assert found.bytes == "refuted"


def test_a_config_that_kept_the_old_number_of_experts_is_caught(tmp_path):
    """DeepSeek-V2 with its weights cut and n_routed_experts left as it was."""
    made, surgery = cut_experts("deepseek_v2", tmp_path / "cut")
    set_config(made, n_routed_experts=8)

    found = proven("deepseek_v2", made, surgery)
    assert found.loads == "refuted"
    assert found.logits == "refuted"
    assert "config.json differs" in found.bytes_why


# What loads without a word and is wrong all the same.


def swapped(pieces, one, other):
    names = [(name, name.replace(one, other)) for name in pieces if one in name]
    for first, second in names:
        a, b = content(pieces[first]), content(pieces[second])
        pieces[first], pieces[second] = with_data(pieces[first], b), with_data(pieces[second], a)


def with_data(old, data):
    from forgekit.checkpoint.writing import Made, Piece

    return Piece(old.name, old.dtype, old.shape, (Made(lambda: data, len(data)),))


def test_two_experts_in_each_others_place_are_caught(tmp_path):
    made, surgery = cut_experts("qwen3_moe", tmp_path / "cut")

    spoilt = rewrite(made, lambda pieces: swapped(pieces, "layers.0.mlp.experts.1.", "layers.0.mlp.experts.2."))

    found = proven("qwen3_moe", spoilt, surgery)
    assert (found.loads, found.logits, found.bytes) == ("confirmed", "refuted", "refuted")


def test_transposed_fused_experts_of_one_width_are_caught_by_their_bytes(tmp_path):
    made, surgery = cut_experts("qwen3_vl_moe", tmp_path / "cut")
    name = "model.language_model.layers.0.mlp.experts.down_proj"

    def transpose(pieces):
        import numpy as np

        array = np.frombuffer(content(pieces[name]), "<u2").reshape(6, 512, 256)
        data = np.ascontiguousarray(array.transpose(0, 2, 1)).tobytes()
        pieces[name] = with_data(pieces[name], data)

    found = proven("qwen3_vl_moe", rewrite(made, transpose), surgery)
    assert (found.logits, found.bytes) == ("refuted", "refuted")


def test_router_rows_out_of_order_are_caught(tmp_path):
    made, surgery = cut_experts("olmoe", tmp_path / "cut")
    name = "model.layers.1.mlp.gate.weight"

    def turn(pieces):
        data = content(pieces[name])
        pieces[name] = with_data(pieces[name], data[512:] + data[:512])

    found = proven("olmoe", rewrite(made, turn), surgery)
    assert (found.loads, found.logits, found.bytes) == ("confirmed", "refuted", "refuted")


def test_one_changed_bit_anywhere_is_caught_by_the_bytes(tmp_path):
    made, surgery = cut_experts("mixtral", tmp_path / "cut")
    path = made / "model-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert proven("mixtral", made, surgery).bytes == "refuted"


def test_numbers_that_are_none_are_caught(tmp_path):
    made, surgery = cut_experts("mixtral", tmp_path / "cut")
    name = "model.layers.0.block_sparse_moe.gate.weight"

    found = proven(
        "mixtral", rewrite(made, lambda p: p.update({name: with_data(p[name], b"\xc0\x7f" * 6 * 256)})), surgery
    )
    assert found.logits == "refuted"


def test_a_missing_head_of_the_model_is_caught_though_it_loads(tmp_path):
    """transformers draws a missing lm_head at random and says so only to who asks."""
    made, surgery = cut_experts("qwen3_moe", tmp_path / "cut")

    found = proven("qwen3_moe", rewrite(made, lambda pieces: pieces.pop("lm_head.weight")), surgery)
    assert found.loads == "refuted"
    assert "lm_head.weight" in found.loads_why


def test_the_wrong_keep_map_is_caught(tmp_path):
    made, surgery = cut_experts("mixtral", tmp_path / "cut")
    lie = DroppedExperts(kept=surgery.kept | {0: (0, 1, 2, 3, 4, 5)}, experts=8)

    found = proven("mixtral", made, lie)
    assert (found.loads, found.logits, found.bytes) == ("confirmed", "refuted", "refuted")


def test_a_record_of_the_proof_says_what_was_shown(tmp_path):
    found = proven("mixtral", *cut_experts("mixtral", tmp_path / "cut")).record()

    assert found["loads"]["verdict"] == "confirmed"
    assert "probe tokens" in found["logits"]["reason"]
    assert found["largestLogitDifference"] <= 1e-6
    json.dumps(found)


@pytest.mark.parametrize("kind", ["experts", "heads", "neurons", "layers"])
def test_a_cut_is_read_back_from_its_file(kind, tmp_path):
    cuts = {
        "experts": cut_of("mixtral"),
        "heads": CutHeads(gone={0: (1, 2)}, heads=8, mode="slice"),
        "neurons": CutNeurons(kept={0: (0, 5)}, neurons=8),
        "layers": CutLayers(kept=(0,), layers=2),
    }
    write(tmp_path / "surgery.json", cuts[kind], more="said")

    assert read((tmp_path / "surgery.json").read_text(), "test") == cuts[kind]


def test_every_layout_of_experts_is_among_those_proven():
    facts = [FAMILIES[name].fact(Experts) for name in MIXTURES]

    assert {fact.layout for fact in facts} >= {
        "mlp-experts-unfused",
        "block_sparse_moe-unfused",
        "granite-moe-fused",
        "deepseek-routed-shared",
        "mlp-experts-fused",
        "qwen3-vl-moe-fused",
    }
    assert any(isinstance(fact, FusedExperts) for fact in facts)
