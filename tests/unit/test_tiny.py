"""Tiny checkpoints are the same bytes everywhere, and stock transformers takes every tensor of them."""

from __future__ import annotations

import json
import math

import pytest

from forgekit import tiny
from forgekit.checkpoint.opening import open_folder
from forgekit.families import FAMILIES, Experts
from tests.support.models import base
from tests.support.running import python

GOLDEN = {
    "deepseek_v2": "b03b7e11f1470d47",
    "granitemoe": "46db02c106882e14",
    "mixtral": "f9155f6fcf796303",
    "olmoe": "a913be9281fe6e4d",
    "phimoe": "6817ba8c11757bad",
    "qwen2": "66aa4004a8ce165e",
    "qwen2_5_omni": "393fbd4d20ad1e46",
    "qwen2_5_vl": "eb7511534018a8eb",
    "qwen3": "78470f564d2e4977",
    "qwen3_5": "cf169aabea47e26a",
    "qwen3_5_moe": "4634595d927816b3",
    "qwen3_5_vl": "cf169aabea47e26a",
    "qwen3_moe": "d2f693ea5c4c6116",
    "qwen3_vl": "c97e10ea8eba2b27",
    "qwen3_vl_moe": "022a1d13d7100f37",
}
GOLDEN_NORM = "133ff93f0b3f063f"
GOLDEN_HEAD = "9dbb38be103d523c"


def test_every_family_has_one():
    assert list(tiny.families()) == list(FAMILIES)


def test_values_are_these_on_every_machine():
    assert tiny.values("model.norm.weight", (4,)).hex() == GOLDEN_NORM
    assert tiny.values("lm_head.weight", (4,)).hex() == GOLDEN_HEAD


def test_another_seed_and_another_name_draw_other_values():
    assert len({tiny.values("a", (8,)), tiny.values("b", (8,)), tiny.values("a", (8,), seed=1)}) == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_fingerprint_is_that_of_the_published_minis(name):
    assert tiny.fingerprint(FAMILIES[name]).hex.startswith(GOLDEN[name])


def test_weights_are_small_and_scales_are_near_one():
    numpy = pytest.importorskip("numpy")

    def read(name):
        raw = numpy.frombuffer(tiny.values(name, (512, 64)), "<u2").astype("<u4") << 16
        return raw.view("<f4")

    assert 2**-9 <= numpy.abs(read("x.weight")).min() <= numpy.abs(read("x.weight")).max() < 0.5
    assert 0.5 <= read("x.norm.weight").min() <= read("x.norm.weight").max() < 2


def test_two_processes_write_the_same_files(tmp_path):
    code = (
        "from pathlib import Path; from forgekit import tiny; from forgekit.families import FAMILIES\n"
        "tiny.write(FAMILIES['granitemoe'], Path({!r}))"
    )
    for name in "ab":
        assert python(code.format(str(tmp_path / name))).code == 0

    def files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert "config.json" in files(tmp_path / "a")


@pytest.mark.parametrize("name", FAMILIES)
def test_no_two_dimensions_that_could_be_mistaken_are_equal(name):
    """A square projection loads transposed without a word."""
    config = tiny.config(FAMILIES[name])
    text = config.get("text_config") or config.get("thinker_config", {}).get("text_config") or config
    keys = ["hidden_size", "intermediate_size", "moe_intermediate_size"]
    widths = [text[key] for key in keys if key in text]
    widths += [2 * text.get("moe_intermediate_size", text.get("intermediate_size", 0))]

    assert len(set(widths)) == len(widths)
    assert json.dumps(config).count("50000.0") >= 1, "a base that no engine assumes by default"


@pytest.mark.xdist_group("loading")
@pytest.mark.parametrize("name", FAMILIES)
def test_stock_transformers_places_every_tensor(name):
    pytest.importorskip("torch")
    from forgekit.models.loading import load

    model = load(base(name), FAMILIES[name])

    assert model.faults == {}
    fact = FAMILIES[name].fact(Experts)
    if fact:
        assert model.modules(fact.router_module)
        assert model.modules(fact.experts_module).keys() == model.modules(fact.router_module).keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_headers_hold_what_the_table_says(name):
    made = open_folder(base(name))

    assert {n: p.tensor.shape for n, p in made.tensors.items()} == tiny.shapes(FAMILIES[name])
    assert all(placed.size == 2 * math.prod(placed.tensor.shape) for placed in made.tensors.values())


def test_the_tokenizer_gives_back_what_it_was_given():
    transformers = pytest.importorskip("transformers")

    words = transformers.AutoTokenizer.from_pretrained(base("qwen2"))

    text = "def größe(x):\n    return the_model  # 冬\n"
    assert words.decode(words(text)["input_ids"]) == text
    assert len(words) == 512
    assert len(words("return the model")["input_ids"]) < len("return the model")
