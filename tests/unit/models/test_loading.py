"""How a model is loaded follows from bytes and memory; what does not fit its class is said."""

from __future__ import annotations

import pytest

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError, CorpusError, MachineError
from forgekit.families import FAMILIES, Experts
from forgekit.metrics import METRICS
from forgekit.models.corpus import read_texts
from forgekit.models.strategy import GIB, Memory, choose, memory, quantisable_bytes
from tests.support.models import MIXTURES, base, copy_of, set_config

GB = 10**9


@pytest.mark.parametrize(
    ("disk", "device", "host", "kind"),
    [
        (93, 32, None, "4-bit"),  # Mixtral 8x7B
        (280, 32, None, "streaming"),  # Mixtral 8x22B
        (280, 32, 512, "offload"),
        (20, 32, 64, "full"),
        (20, 0, 64, "full"),
        (93, 0, 64, "streaming"),
    ],
)
def test_the_strategy_follows_from_bytes_on_disk(disk, device, host, kind):
    found = choose(disk * GB, Memory(device * GB, None if host is None else host * GB))

    assert found.kind == kind
    assert f"{disk}.00 GB on disk" in found.reason


def test_experts_that_stay_wide_do_not_count_as_quantisable():
    assert choose(93 * GB, Memory(32 * GB, None), quantisable=3 * GB).kind == "streaming"
    made = open_folder(base("mixtral"))
    assert quantisable_bytes(made) < made.total / 10


def test_a_spread_model_leaves_room_on_device_and_host():
    found = choose(280 * GB, Memory(32 * GIB, 512 * GIB))

    assert found.budget == (30 * GIB, 500 * GIB)


def test_this_machine_has_memory_and_says_when_it_has_no_gpu():
    assert memory("cpu").host > GIB
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="no CUDA device"):
            memory("cuda")


@pytest.mark.xdist_group("loading")
class TestWithTorch:
    torch = pytest.importorskip("torch")

    def test_a_model_of_no_known_class_is_an_error(self, tmp_path):
        from forgekit.models.loading import load

        folder = copy_of("qwen2", tmp_path)
        set_config(folder, model_type="nonesuch", architectures=["NonesuchForCausalLM"])

        with pytest.raises(CheckpointError, match="transformers cannot load the checkpoint"):
            load(folder, FAMILIES["qwen2"])

    def test_remote_code_is_not_run(self, tmp_path):
        from forgekit.models.loading import load

        folder = copy_of("qwen2", tmp_path)
        set_config(
            folder, model_type="custom", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}
        )
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

        with pytest.raises(CheckpointError):
            load(folder, FAMILIES["qwen2"])
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("metric", [name for name, found in METRICS.items() if found.needs != "weights"])
    @pytest.mark.parametrize("name", MIXTURES)
    def test_every_metric_can_be_profiled_on_every_mixture(self, name, metric):
        from forgekit.models.corpus import batches
        from forgekit.models.loading import load
        from forgekit.models.measuring import profile_experts

        model = load(base(name), FAMILIES[name])
        texts = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]

        found = profile_experts(model, FAMILIES[name].fact(Experts), METRICS[metric], batches(texts, 2, 2), experts=8)

        assert found.tokens == 9
        assert found.hooks == len(found.sums)
        for sums in found.sums.values():
            assert all(len(row) == 8 for row in sums.values())
            if "activation_counts" in sums:
                assert sum(sums["activation_counts"]) == 9 * 2, "each token goes to two experts, padding to none"

    def test_the_norms_are_those_of_the_experts_own_outputs(self):
        from forgekit.models.loading import load
        from forgekit.models.measuring import output_norms

        model = load(base("mixtral"), FAMILIES["mixtral"])
        module = model.whole.model.layers[0].mlp.experts
        hidden = self.torch.randn(5, 256)
        chosen = self.torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [1, 0]])

        found = output_norms(module, hidden, chosen).detach()

        source = open_folder(base("mixtral"))
        from forgekit.models.training import to_float64

        def weight(expert, which):
            tensor = f"model.layers.0.block_sparse_moe.experts.{expert}.{which}.weight"
            shape = source[tensor].tensor.shape
            return self.torch.tensor(to_float64(source.read(tensor), "BF16", tensor).reshape(shape))

        for t in range(5):
            for rank in range(2):
                x, e = hidden[t].double(), int(chosen[t, rank])
                gate, up = weight(e, "w1") @ x, weight(e, "w3") @ x
                wanted = weight(e, "w2") @ (self.torch.nn.functional.silu(gate) * up)
                assert float(found[t, rank]) == pytest.approx(float(wanted.norm().detach()), rel=1e-4)

    def test_no_router_is_an_error_and_not_an_empty_profile(self):
        from dataclasses import replace

        from forgekit.models.corpus import batches
        from forgekit.models.loading import load
        from forgekit.models.measuring import profile_experts

        model = load(base("mixtral"), FAMILIES["mixtral"])
        lost = replace(FAMILIES["mixtral"].fact(Experts), router_module="mlp.router")

        with pytest.raises(CheckpointError, match=r"no module is named layers\.N\.mlp\.router"):
            profile_experts(model, lost, METRICS["activation_count"], batches([[1, 2]], 1, 0), experts=8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no text"),
        ('{"text": ""}\n\n', "holds no text"),
        ("nonsense\n", "not an object with a text"),
        ('{"other": 1}\n', "not an object with a text"),
        ("[1]\n", "not an object with a text"),
        ('{"text": 3}\n', "not a string"),
    ],
)
def test_a_corpus_that_is_none_is_named_by_line(text, says, tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(text)

    with pytest.raises(CorpusError, match=says):
        read_texts(path)


def test_texts_stand_under_text_or_content(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a"}\n\n{"content": "b"}\n{"text": " "}\n')

    assert read_texts(path) == ["a", "b"]


@pytest.mark.xdist_group("loading")
@pytest.mark.parametrize("name", ["qwen2", "mixtral"])
def test_a_model_too_large_for_memory_is_run_from_disk_and_computes_the_same(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from forgekit.forge.proof import logits
    from forgekit.models.loading import load
    from forgekit.models.strategy import Strategy

    small = Strategy("streaming", "cpu", "test", (0, open_folder(base(name)).total // 3))

    streamed = load(base(name), FAMILIES[name], strategy=small)
    whole = load(base(name), FAMILIES[name])

    assert "disk" in set(map(str, streamed.whole.hf_device_map.values()))
    assert torch.allclose(logits(streamed), logits(whole), atol=1e-4)
    assert not [path for path in base(name).iterdir() if path.name.startswith(".")]
