"""What headers and configs foretell of an engine, before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import Made, Piece, write_shards
from forgekit.errors import UnknownNameError
from forgekit.families import FAMILIES
from forgekit.findings import Verdict
from forgekit.forms import folder_forms
from forgekit.probing.cells import choose, foretold
from forgekit.runtimes import RUNTIMES, find_runtime
from forgekit.runtimes.llama_cpp import converted_architectures
from tests.support.gguf import gguf_bytes, text
from tests.support.matrix import ENGINES as HERE
from tests.support.matrix import KNOWN
from tests.support.models import base, look_alike, rewrite, run_stage

SOURCES = bool(converted_architectures())


def told(folder, runtime):
    """(invariant, effect) of everything foretold, on the first form the runtime would be given."""
    form = choose(RUNTIMES[runtime], folder_forms(folder))[0]
    return [(obstacle.invariant, obstacle.effect) for obstacle in RUNTIMES[runtime].preflight(form)]


@pytest.mark.parametrize("runtime", HERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_honest_checkpoint_meets_the_known_obstacles_and_no_others(family, runtime):
    expected = KNOWN.get((family, runtime))
    if runtime == "llama_cpp" and expected == "known-architecture" and not SOURCES:
        pytest.skip("unchecked: llama.cpp's converter is not on this machine")

    assert [invariant for invariant, _ in told(base(family), runtime)] == ([expected] if expected else [])


CONFIGS = [
    ("qwen2", {"model_type": "madeup"}, (), "transformers", "known-architecture", "refuse"),
    ("qwen2", {"model_type": "madeup"}, (), "mlx", "known-architecture", "refuse"),
    ("qwen2", {"architectures": ["MadeUpForCausalLM"]}, (), "llama_cpp", "known-architecture", "refuse"),
    ("phimoe", {"architectures": ["PhimoeForCausalLM"]}, (), "llama_cpp", "known-architecture", "refuse"),
    ("qwen2", {}, ("model_type",), "vllm", "known-architecture", "refuse"),
    ("qwen3_moe", {"num_local_experts": 6}, (), "transformers", "one-expert-count", "wrong"),
    ("qwen3_moe", {"num_experts": 6}, (), "transformers", "one-expert-count", "refuse"),
    ("mixtral", {"num_local_experts": 9}, (), "vllm", "one-expert-count", "refuse"),
    ("granitemoe", {"num_local_experts": 4}, (), "mlx", "one-expert-count", "refuse"),
    ("qwen3_moe", {"num_experts_per_tok": 9}, (), "llama_cpp", "routed-within", "refuse"),
    ("deepseek_v2", {"n_group": 3}, (), "transformers", "routed-within", "refuse"),
    ("qwen2", {"num_attention_heads": 6}, (), "transformers", "same-heads-in-every-layer", "refuse"),
    ("qwen2", {"rope_parameters": {"rope_theta": 50000.0}}, ("rope_theta",), "mlx", "stated-theta", "wrong"),
    ("qwen3_moe", {"num_local_experts": 8}, ("num_experts",), "mlx", "stated-fields", "refuse"),
    ("olmoe", {"num_key_value_heads": 2}, (), "llama_cpp", "whole-norms", "refuse"),
    ("qwen2", {"num_attention_heads": 16}, (), "vllm", "kernel-width", "refuse"),
    ("qwen3_5", {"linear_key_head_dim": 64}, (), "vllm", "kernel-width", "refuse"),
    (
        "qwen3_vl",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [12, 10, 10]}},
        (),
        "vllm",
        "scaled-sections",
        "refuse",
    ),
    ("qwen2", {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}, (), "mlx", "no-remote-code", "hostile"),
    ("qwen2", {"model_file": "evil.py"}, (), "mlx", "no-remote-code", "hostile"),
]


@pytest.mark.parametrize("row", CONFIGS, ids=lambda row: f"{row[0]}-{row[3]}-{row[4]}")
def test_a_config_that_an_engine_cannot_follow_is_foretold(row, tmp_path):
    family, config, without, runtime, invariant, effect = row
    if runtime == "llama_cpp" and invariant == "known-architecture" and not SOURCES:
        pytest.skip("unchecked: llama.cpp's converter is not on this machine")

    assert (invariant, effect) in told(look_alike(family, tmp_path, without, **config), runtime)


def test_heads_cut_out_are_foretold_where_loaders_divide_and_nowhere_else(tmp_path):
    run_stage("prune", "qwen2", tmp_path, strategy="magnitude", level=0.25, defragMode="slice")

    assert {runtime: told(tmp_path, runtime) for runtime in HERE} == {
        "transformers": [],
        **{runtime: [("square-attention", "refuse")] for runtime in ("llama_cpp", "mlx", "vllm")},
    }


def test_heads_zeroed_in_place_are_foretold_to_load_everywhere(tmp_path):
    run_stage("prune", "qwen2", tmp_path, strategy="magnitude", level=0.25)

    assert {runtime: told(tmp_path, runtime) for runtime in HERE} == {runtime: [] for runtime in HERE}


def test_an_output_head_that_nobody_stored_is_foretold(tmp_path):
    source = open_folder(base("qwen2"))
    pieces = {name: Made(partial(source.read, name), source[name].size) for name in source.tensors}
    rows = [
        Piece(name, source[name].tensor.dtype, source[name].tensor.shape, (made,))
        for name, made in pieces.items()
        if name != "lm_head.weight"
    ]
    write_shards(tmp_path, {"model.safetensors": rows})
    (tmp_path / "config.json").write_text(source.config_text)

    assert all(("stored-head", "wrong") in told(tmp_path, runtime) for runtime in HERE)


def test_experts_the_other_way_round_are_foretold(tmp_path):
    def turn(pieces):
        for name, piece in list(pieces.items()):
            if "experts.gate_up_proj" in name or "experts.down_proj" in name:
                count, first, second = piece.shape
                pieces[name] = Piece(name, piece.dtype, (count, second, first), piece.parts)

    folder = rewrite(look_copy("qwen3_vl_moe", tmp_path), turn)

    assert ("hub-layout", "refuse") in told(folder, "llama_cpp")


FUSED = {"transformers": True, "llama_cpp": {"qwen3_moe"}, "mlx": set(), "vllm": {"qwen3_moe", "olmoe"}}


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe"])
def test_stacked_experts_are_foretold_where_an_engine_maps_only_the_published_names(family, tmp_path):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base(family), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, save_original_format=False)
    (tmp_path / "config.json").write_text((base(family) / "config.json").read_text())

    for runtime, taken in FUSED.items():
        takes = taken is True or family in taken
        assert told(tmp_path, runtime) == ([] if takes else [("unfused-experts", "refuse")]), runtime


def look_copy(name, folder):
    import shutil

    return Path(shutil.copytree(base(name), folder / name))


def test_pickles_are_never_given_to_an_engine(tmp_path):
    (tmp_path / "config.json").write_text((base("qwen2") / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    assert all(("no-pickles", "hostile") in told(tmp_path, runtime) for runtime in HERE)


def test_a_header_that_lies_is_never_given_to_an_engine(tmp_path):
    folder = look_copy("qwen2", tmp_path)
    shard = next(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])

    assert all(told(folder, runtime) == [("readable-headers", "hostile")] for runtime in HERE)


def test_a_gguf_file_that_lies_is_never_given_to_an_engine(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([("t", (2, 2)), ("u", (2, 2))], place=0))

    assert told(tmp_path, "llama_cpp") == [("readable-headers", "hostile")]


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages['__class__'] }}",
    "{% set x = messages | attr('__init__') %}{{ x.__globals__ }}",
    "{{ cycler._x }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_reaches_for_python_is_never_given_to_an_engine(template, tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([], [("tokenizer.chat_template", 8, text(template))]))
    folder = look_alike("qwen2", tmp_path)
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))

    assert ("tame-template", "hostile") in told(tmp_path / "m.gguf", "llama_cpp")
    assert all(("tame-template", "hostile") in told(folder, runtime) for runtime in HERE)


def test_a_chat_template_that_formats_messages_is_left_alone(tmp_path):
    folder = look_alike("qwen2", tmp_path)
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% break %}"
    )
    (folder / "chat_template.jinja").write_text(template)

    assert told(folder, "transformers") == []


def test_a_tokenizer_bomb_is_never_given_to_an_engine(tmp_path):
    deep, large = look_alike("qwen2", tmp_path / "deep"), look_alike("qwen2", tmp_path / "large")
    for folder in (deep, large):
        (folder / "tokenizer.json").unlink()
    (deep / "tokenizer.json").write_text('{"a":' * 5000 + "1" + "}" * 5000)
    with (large / "tokenizer.json").open("wb") as file:
        file.truncate(200 << 20)

    for folder, says in ((deep, "nests deeper"), (large, "200 MiB")):
        obstacles = RUNTIMES["transformers"].preflight(folder_forms(folder)[0])
        assert [obstacle.invariant for obstacle in obstacles] == ["tame-tokenizer"]
        assert says in obstacles[0].text


@pytest.mark.skipif(not SOURCES, reason="unchecked: llama.cpp's converter is not on this machine")
def test_a_tokenizer_that_the_converter_cannot_name_is_foretold(tmp_path):
    folder = look_alike("qwen2", tmp_path)
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tree))

    assert told(folder, "llama_cpp") == [("stated-pre-tokenizer", "refuse")]


def test_a_gguf_file_of_an_unknown_architecture_or_an_unnamed_pre_tokenizer_is_foretold(tmp_path):
    metadata = [("general.architecture", 8, text("madeup")), ("tokenizer.ggml.model", 8, text("gpt2"))]
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([], metadata))

    found = told(tmp_path, "llama_cpp")

    assert ("stated-pre-tokenizer", "wrong") in found
    assert (("known-architecture", "refuse") in found) == SOURCES


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**18) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {key for family in FAMILIES for key in json.loads((base(family) / "config.json").read_text())}
    | {"rope_parameters", "auto_map", "model_file", "quantization", "quantization_config"}
    | {"text_config", "thinker_config"}
)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe", "deepseek_v2", "qwen3_vl_moe", "qwen2_5_omni"])
@settings(max_examples=40, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS), junk, min_size=1, max_size=5))
def test_no_config_makes_preflight_raise_or_hang(family, changes, tmp_path_factory):
    folder = look_alike(family, tmp_path_factory.mktemp("junk"))
    tree = json.loads((folder / "config.json").read_text())
    for place in (tree, tree.get("text_config")):
        if isinstance(place, dict):
            place.update(changes)
    (folder / "config.json").write_text(json.dumps(tree))

    for cell in foretold(folder_forms(folder), [RUNTIMES[name] for name in RUNTIMES]):
        assert cell.verdict is not Verdict.CONFIRMED


def test_runtimes_are_found_under_every_spelling_that_alloys_use():
    spellings = ("Transformers", "VLLM", "LlamaCpp", "MLX", "TensorRTLLM", "CoreML", "Triton", "llama.cpp", "llama_cpp")

    assert [find_runtime(name).name for name in spellings] == [
        "transformers",
        "vllm",
        "llama_cpp",
        "mlx",
        "tensorrt_llm",
        "coreml",
        "triton",
        "llama_cpp",
        "llama_cpp",
    ]
    assert find_runtime("ollama") is None
    assert find_runtime(3) is None
    with pytest.raises(UnknownNameError, match=r"add forgekit/runtimes/sglang\.py"):
        RUNTIMES["sglang"]


@pytest.mark.parametrize(
    ("files", "runtime", "invariant"),
    [
        ({"config.json": {"pretrained_config": {}}, "rank0.engine": b""}, "tensorrt_llm", "whole-engines"),
        (
            {"config.json": {"pretrained_config": {"mapping": {"world_size": 2}}}, "rank0.engine": b""},
            "tensorrt_llm",
            "whole-engines",
        ),
        (
            {
                "config.json": {
                    "pretrained_config": {"mapping": {"world_size": 1}},
                    "build_config": {"max_seq_len": 16},
                },
                "rank0.engine": b"",
            },
            "tensorrt_llm",
            "engine-limits",
        ),
        ({"config.json": {"model_type": "qwen2"}, "model.onnx": b"x"}, "onnxruntime", "whole-data"),
        (
            {"model.onnx": b"x", "model.onnx.data": b"", "export.json": {"task": "image-classification"}},
            "onnxruntime",
            "known-architecture",
        ),
        ({"config.json": {}, "openvino_model.xml": b"<net/>"}, "openvino", "whole-data"),
        ({"config.json": {}, "g.xml": b"<net/>", "g.bin": b""}, "openvino", "whole-data"),
        ({"model.onnx": b"x", "config.json": {"model_type": "qwen2"}}, "openvino", "whole-data"),
        ({"m.mlpackage/Data/model.mlmodel": b"x"}, "coreml", "whole-package"),
        (
            {
                "m.mlpackage/Manifest.json": {
                    "itemInfoEntries": {"A": {"path": "com.apple.CoreML/model.mlmodel"}},
                    "rootModelIdentifier": "A",
                }
            },
            "coreml",
            "whole-package",
        ),
        ({"config.pbtxt": b'name: "ember"\n', "1/model.py": b""}, "triton", "named-backend"),
    ],
)
def test_engines_that_live_elsewhere_still_have_their_files_looked_at(files, runtime, invariant, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    assert invariant in [name for name, _ in told(tmp_path, runtime)]


def test_whole_packages_and_engines_meet_no_obstacle(tmp_path):
    whole = {
        "trt/config.json": {
            "model_type": "qwen2",
            "pretrained_config": {"mapping": {"world_size": 1}},
            "build_config": {"max_seq_len": 2048},
        },
        "trt/rank0.engine": b"x",
        "m.mlpackage/Manifest.json": {
            "itemInfoEntries": {"A": {"path": "com.apple.CoreML/model.mlmodel"}},
            "rootModelIdentifier": "A",
        },
        "m.mlpackage/Data/com.apple.CoreML/model.mlmodel": b"x",
        "triton/config.pbtxt": b'backend: "vllm"\n',
    }
    for name, content in whole.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    assert [told(tmp_path, runtime) for runtime in ("tensorrt_llm", "coreml", "triton")] == [
        [],
        [],
        [],
    ]


def test_reading_headers_imports_no_engine():
    code = (
        "import sys, pathlib\n"
        "from forgekit.runtimes import RUNTIMES\n"
        "from forgekit.forms import folder_forms\n"
        "from forgekit.probing.cells import foretold\n"
        f"cells = foretold(folder_forms(pathlib.Path({str(base('qwen3_moe'))!r})), [RUNTIMES[n] for n in RUNTIMES])\n"
        "assert len(cells) == len(RUNTIMES)\n"
        "heavy = {'torch', 'transformers', 'mlx', 'vllm', 'llama_cpp', 'onnxruntime', 'openvino', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_weights_of_a_graph_are_no_pickles(tmp_path):
    for name in ("config.json", "openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_text("{}")
    assert [form.kind for form in folder_forms(tmp_path)] == ["openvino"]

    (tmp_path / "pytorch_model.bin").write_text("{}")
    assert [form.kind for form in folder_forms(tmp_path)] == ["safetensors", "openvino"]
