"""Padding weighs nothing, adapters are merged to the bit, and losses are what their formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError, CorpusError
from forgekit.families import FAMILIES, Towers
from forgekit.models import training
from forgekit.models.corpus import batches, encode, pad_id, read_texts
from forgekit.models.loading import load, tokenizer
from forgekit.models.measuring import perplexity
from forgekit.models.training import Recovery, from_float64, kl_logits, mse_hidden, read_adapter, to_float64
from tests.support import forged
from tests.support.models import base

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("training")


def how(**changes):
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ("q_proj", "v_proj"), "steps": 3, "rate": 1e-2}
    return Recovery(**settings | {"batch": 2, "length": 64} | changes)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "words.jsonl"
    path.write_bytes(forged.corpus(8))
    reader = tokenizer(base("qwen2"))
    return encode(reader, read_texts(path), 64), pad_id(reader)


@pytest.fixture
def qwen2():
    return load(base("qwen2"), FAMILIES["qwen2"])


def test_a_padded_and_an_unpadded_corpus_have_the_same_perplexity(qwen2, words):
    encoded, pad = words
    assert len({len(ids) for ids in encoded}) > 3, "the texts differ in length, so batches of them are padded"

    alone = perplexity(qwen2, batches(encoded, 1, pad))
    together = perplexity(qwen2, batches(encoded, 8, pad))
    with_other_padding = perplexity(qwen2, batches(encoded, 8, 77))

    assert alone.tokens == together.tokens == sum(len(ids) - 1 for ids in encoded)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
    assert with_other_padding.loss == pytest.approx(alone.loss, rel=1e-5)


def test_perplexity_is_what_transformers_own_loss_gives(qwen2, words):
    encoded, _ = words
    total = sum(
        float(qwen2.whole(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.detach()) * (len(ids) - 1)
        for ids in encoded
    )

    found = perplexity(qwen2, batches(encoded, 4, 0))

    assert found.loss == pytest.approx(total / sum(len(ids) - 1 for ids in encoded), rel=1e-5)
    assert found.value == pytest.approx(math.exp(found.loss))


@pytest.mark.parametrize("loss", [None, "kl_logits", "mse_hidden", "both"])
def test_padding_changes_no_training_loss(loss, qwen2, words):
    encoded, pad = words
    teacher = load(base("qwen3"), FAMILIES["qwen3"]) if loss == "kl_logits" else load(base("qwen2"), FAMILIES["qwen2"])
    if loss in ("mse_hidden", "both"):
        with torch.no_grad():
            teacher.whole.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    short, long = min(encoded, key=len), max(encoded, key=len)

    def of(rows, padding=pad):
        (batch,) = batches(rows, len(rows), padding)
        return float(training.batch_loss(qwen2.text, batch, how(loss=loss), teacher).detach())

    counts = (len(short), len(long)) if loss else (len(short) - 1, len(long) - 1)
    mean = (of([short]) * counts[0] + of([long]) * counts[1]) / sum(counts)
    assert of([short, long]) == pytest.approx(mean, rel=1e-4)
    assert of([short, long], padding=99) == pytest.approx(mean, rel=1e-4)


def test_a_model_is_at_no_distance_from_itself():
    logits = torch.randn(2, 5, 7)
    mask = torch.ones(2, 5, dtype=torch.int64)

    assert float(kl_logits(logits, logits, mask, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(mse_hidden([logits], [logits], mask)) == 0


def test_the_divergence_is_its_formula():
    student, teacher = torch.randn(1, 3, 5), torch.randn(1, 3, 5)
    mask = torch.tensor([[1, 1, 0]])

    found = float(kl_logits(student, teacher, mask, 3.0))

    p, q = (torch.softmax(x / 3.0, -1)[0, :2].double() for x in (teacher, student))
    assert found == pytest.approx(float(9 * (p * (p / q).log()).sum() / 2), rel=1e-5)


def test_the_temperature_of_the_recipe_counts():
    student, teacher = torch.randn(1, 3, 5), torch.randn(1, 3, 5)
    mask = torch.ones(1, 3, dtype=torch.int64)

    assert float(kl_logits(student, teacher, mask, 1.0)) != pytest.approx(float(kl_logits(student, teacher, mask, 4.0)))


def trained(folder, words, name="qwen2", **changes):
    encoded, pad = words
    folder.mkdir(exist_ok=True)
    with training.fixed_threads(1):
        model = load(base(name), FAMILIES[name])
        return training.train(model, how(**changes), encoded, pad, folder)


def test_training_learns_and_gives_the_same_adapter_twice(tmp_path, words):
    first = trained(tmp_path / "a", words, steps=12)
    second = trained(tmp_path / "b", words, steps=12)

    assert first.losses == second.losses
    assert sum(first.losses[-4:]) < sum(first.losses[:4])
    assert (tmp_path / "a" / training.ADAPTER).read_bytes() == (tmp_path / "b" / training.ADAPTER).read_bytes()


def test_another_seed_trains_another_adapter(tmp_path, words):
    trained(tmp_path / "a", words)
    trained(tmp_path / "b", words, seed=1)

    assert (tmp_path / "a" / training.ADAPTER).read_bytes() != (tmp_path / "b" / training.ADAPTER).read_bytes()


def test_a_merge_is_the_rounded_sum_and_touches_nothing_else(tmp_path, words):
    trained(tmp_path / "adapter", words)
    (tmp_path / "out").mkdir()
    changed = training.merge(base("qwen2"), tmp_path / "adapter", tmp_path / "out")

    before, after = open_folder(base("qwen2")), open_folder(tmp_path / "out")
    pairs, scale = read_adapter(tmp_path / "adapter")
    assert changed == len(pairs) == 4
    assert scale == 2.0
    for name in before.tensors:
        if name not in pairs:
            assert before.read(name) == after.read(name)
            continue
        a, b = pairs[name]
        old, new = (to_float64(c.read(name), "BF16", name).reshape(b.shape[0], a.shape[1]) for c in (before, after))
        assert np.allclose(new, old + scale * b @ a, rtol=2**-8, atol=1e-6)
        assert not np.array_equal(new, old)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21 asks transformers 5 for a renamed property
def test_a_merged_model_computes_what_the_adapted_one_did(tmp_path, words):
    import peft

    encoded, pad = words
    trained(tmp_path, words, steps=6)
    (tmp_path / "out").mkdir()
    training.merge(base("qwen2"), tmp_path, tmp_path / "out")
    model = load(base("qwen2"), FAMILIES["qwen2"])
    names = training.targets(model, ("q_proj", "v_proj"))
    adapted = peft.get_peft_model(model.text, peft.LoraConfig(r=4, lora_alpha=8, target_modules=names))
    pairs, _ = read_adapter(tmp_path)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            for disk, (a, b) in pairs.items():
                if f"{disk.removesuffix('.weight')}.lora_A" in name.replace("base_model.model.", ""):
                    value.copy_(torch.tensor(a))
                if f"{disk.removesuffix('.weight')}.lora_B" in name.replace("base_model.model.", ""):
                    value.copy_(torch.tensor(b))

    (batch,) = batches(encoded[:2], 2, pad)
    with torch.no_grad():
        wanted = adapted(input_ids=batch.ids, attention_mask=batch.mask).logits
        found = load(tmp_path / "out", FAMILIES["qwen2"]).text(input_ids=batch.ids, attention_mask=batch.mask).logits
    apart = (wanted - found).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt()
    assert float(apart) < 0.01  # bfloat16 rounds the merged weights


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64, allow_nan=False, min_value=-1e30, max_value=1e30), min_size=1, max_size=20))
def test_rounding_to_bfloat16_is_to_the_nearest_even(values):
    array = np.array(values, "f8")
    raw = np.frombuffer(from_float64(array, "BF16"), "<u2").astype("<u4")

    def back(bits):
        return (bits << 16).astype("<u4").view("<f4").astype("f8")

    found = back(raw)
    for shift in (-1, 1):
        other = back((raw.astype("i8") + shift).clip(0, 0xFFFF).astype("<u4"))
        near, far = np.abs(found - array), np.abs(other - array)
        known = np.isfinite(other)
        assert (near[known] <= far[known]).all()
        tie = known & (near == far) & (other != found)
        assert (raw[tie] & 1 == 0).all()


@given(st.binary(min_size=2, max_size=64).filter(lambda data: len(data) % 2 == 0))
def test_bfloat16_survives_the_way_to_float64_and_back(data):
    patterns = np.frombuffer(data, "<u2")
    numbers = patterns[(patterns & 0x7F80) != 0x7F80].tobytes()

    assert from_float64(to_float64(numbers, "BF16", "x"), "BF16") == numbers


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].fact(Towers)])
def test_no_adapter_is_put_on_a_tower(name):
    model = load(base(name), FAMILIES[name])

    names = training.targets(model, ("q_proj", "o_proj"))

    assert names
    assert not [n for n in names if {"visual", "audio_tower", "talker", "token2wav"} & set(n.split("."))]


def test_a_target_that_is_nowhere_is_an_error_that_names_what_there_is(qwen2):
    with pytest.raises(CheckpointError, match="no decoder layer has a module 'w1'") as caught:
        training.targets(qwen2, ("w1",))
    assert "gate_proj" in caught.value.hint


def test_a_loss_that_is_no_number_stops_the_training(tmp_path, words):
    with pytest.raises(CheckpointError, match=r"the loss of step \d+ is not a number"):
        trained(tmp_path, words, steps=30, rate=1e30, clip=1e30)


def test_texts_without_anything_to_predict_are_refused(tmp_path, qwen2):
    with pytest.raises(CorpusError, match="nothing to predict"):
        training.train(qwen2, how(), [[1], [2]], 0, tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_trains_on_a_quantised_model(bits, tmp_path, words):
    pytest.importorskip("bitsandbytes")
    from forgekit.models.strategy import Strategy

    encoded, pad = words
    strategy = Strategy("4-bit" if bits == 4 else "8-bit", "cpu", "test")
    model = load(base("qwen2"), FAMILIES["qwen2"], strategy=strategy)

    found = training.train(model, how(), encoded, pad, tmp_path)

    assert all(math.isfinite(loss) for loss in found.losses)
    assert len(read_adapter(tmp_path)[0]) == 4
