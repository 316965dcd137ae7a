"""Real engines on real weights: what a probe confirms, and what it cannot be fooled into confirming."""

from __future__ import annotations

import json
import shutil

import pytest

from forgekit import tiny
from forgekit.checkpoint.gguf import read_header
from forgekit.errors import SourceError
from forgekit.families import FAMILIES
from forgekit.findings import Verdict
from forgekit.forms import folder_forms
from forgekit.models import llama_cpp
from forgekit.probing.bench import Bench, Limits, matrix, memory_needed, plain_prompts
from forgekit.probing.cells import Probed, choose, foretold
from forgekit.runtimes import RUNTIMES, Obstacle
from forgekit.stages.quant import GGUF
from tests.support import engines
from tests.support.gguf import gguf_bytes
from tests.support.matrix import converter_missing, missing
from tests.support.models import base, look_alike, rewrite, run_stage
from tests.support.running import python

C, R, P, U = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED
needs_llama = pytest.mark.skipif(bool(converter_missing()), reason=f"unchecked: {converter_missing()}")
needs_mlx = pytest.mark.skipif(bool(missing("mlx")), reason=f"unchecked: {missing('mlx')}")
pytestmark = pytest.mark.xdist_group("engines")


def probe(bench, folder, runtime, name=""):
    forms = folder_forms(folder)
    chosen = [form for form in choose(RUNTIMES[runtime], forms) if name in form.name]
    return bench.probe(chosen[0], RUNTIMES[runtime], forms)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """qwen3 with a GGUF file of each type beside it."""
    folder = tmp_path_factory.mktemp("quantised") / "qwen3"
    shutil.copytree(base("qwen3"), folder)
    llama_cpp.convert(folder, folder / "m-F16.gguf", "f16", name="m", pre_tokenizer=None)
    llama_cpp.convert(folder, folder / "m-BF16.gguf", "bf16", name="m", pre_tokenizer=None)
    for kind in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K"):
        llama_cpp.quantise(folder / "m-BF16.gguf", folder / f"m-{kind}.gguf", GGUF[kind])
    return folder


@needs_llama
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"])
def test_each_type_of_gguf_agrees_with_the_unquantised_weights_within_its_bound(kind, quantised, bench):
    cell = probe(bench, quantised, "llama_cpp", f"-{kind}.gguf")

    assert (cell.verdict, cell.precision) == (C, kind), cell.reason
    assert cell.evidence["agreement"]["loss"] <= cell.evidence["bound"]["loss"]
    assert cell.evidence["tokenizerAgrees"] is True


@needs_llama
@pytest.mark.parametrize(("kind", "at", "bad"), [("BF16", -2, b"\xc0\x7f"), ("Q8_0", -34, b"\x00\x7c")])
def test_what_is_no_number_is_found_where_no_prompt_reaches_too(kind, at, bad, quantised, bench):
    source = quantised / f"m-{kind}.gguf"
    header = read_header(lambda start, size: source.read_bytes()[start : start + size], source.stat().st_size, "m")
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    data = bytearray(source.read_bytes())
    data[embedding.end + at : embedding.end + at + 2] = bad  # of the last token
    folder = shutil.copytree(base("qwen3"), quantised.parent / f"broken-{kind}")
    (folder / f"m-{kind}.gguf").write_bytes(data)

    cell = probe(bench, folder, "llama_cpp", f"-{kind}.gguf")

    assert cell.verdict is R
    assert "token_embd.weight holds NaN, infinity or a block that cannot be" in cell.reason


def test_weights_that_load_beside_a_tokenizer_that_does_not_are_refuted(tmp_path, bench):
    folder = look_alike("qwen3", tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "none there is"}}')

    cell = probe(bench, folder, "transformers")

    assert cell.verdict is R
    assert "its tokenizer does not: the tokenizer cannot be read" in cell.reason


def test_blocks_that_cannot_be_read_are_no_sound_blocks(tmp_path, monkeypatch):
    from forgekit.runtimes import _blocks

    file = tmp_path / "m.gguf"
    file.write_bytes(GGUF_FILE)
    library = tmp_path / "libggml-base.so"
    monkeypatch.setattr(_blocks.ctypes, "CDLL", lambda _path: Library())
    assert _blocks.BlockCheck(library, file).result() == ""

    header = _blocks._header(file)
    monkeypatch.setattr(_blocks, "_header", lambda _part: header)
    file.write_bytes(GGUF_FILE[: header.tensors[0].end - 1])
    with pytest.raises(RuntimeError, match=r"the blocks cannot be read: m\.gguf ends within"):
        _blocks.BlockCheck(library, file).result()
    file.unlink()
    with pytest.raises(RuntimeError, match="the blocks cannot be read"):
        _blocks.BlockCheck(library, file).result()


@needs_llama
def test_a_file_we_cannot_walk_is_checked_by_llama_cpp_itself(quantised, tmp_path):
    broken = bytearray((quantised / "m-BF16.gguf").read_bytes())
    header = read_header(lambda start, size: bytes(broken[start : start + size]), len(broken), "m")
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    broken[embedding.end - 2 : embedding.end] = b"\xc0\x7f"
    (tmp_path / "broken.gguf").write_bytes(broken)
    files = [str(quantised / "m-BF16.gguf"), str(tmp_path / "broken.gguf")]

    ran = python(
        "from forgekit.errors import CheckpointError\n"
        "from forgekit.runtimes import _blocks, llama_cpp\n"
        "def refuse(part):\n    raise CheckpointError('a type that came after us')\n"
        "_blocks._header = refuse\n"
        f"for path in {files!r}:\n"
        "    driver = llama_cpp.Driver()\n"
        "    driver.load({'path': path, 'device': 'cpu', 'threads': 1})\n"
        "    try: print(driver.check())\n"
        "    except RuntimeError as error: print(error)\n"
    )

    assert ran.out.splitlines() == ["None", "llama.cpp does not load the file"], ran.err


class Library:
    """ggml's check, for a file whose blocks are all numbers."""

    class ggml_validate_row_data:  # noqa: N801 - its name in the library
        def __new__(cls, *_arguments):
            return True


@needs_llama
def test_at_two_bits_what_looks_like_other_weights_is_left_unchecked(quantised, bench):
    cell = probe(bench, quantised, "llama_cpp", "-Q2_K.gguf")

    assert cell.verdict is U
    assert "rounding alone can look like other weights" in cell.reason
    assert cell.evidence["agreement"]["loss"] > 0.3


@needs_llama
@pytest.mark.parametrize("kind", ["F16", "Q4_K_M"])
def test_other_weights_under_the_same_name_are_refuted(kind, quantised, bench, tmp_path):
    tiny.write(FAMILIES["qwen3"], tmp_path / "qwen3", seed=1)
    forged = shutil.copy(quantised / f"m-{kind}.gguf", tmp_path / "qwen3")

    cell = probe(bench, tmp_path / "qwen3", "llama_cpp", f"-{kind}.gguf")

    assert forged.endswith(f"{kind}.gguf")
    assert cell.verdict is R
    assert "answers otherwise than Transformers does" in cell.reason


@needs_llama
def test_a_tokenizer_that_splits_otherwise_is_refuted(quantised, bench, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(quantised, folder, ignore=shutil.ignore_patterns("*.gguf"))
    llama_cpp.convert(folder, folder / "m-F32.gguf", "f32", name="m", pre_tokenizer="bert-bge")

    cell = probe(bench, folder, "llama_cpp", "F32")

    assert cell.verdict is R
    assert "tokenizer" in cell.reason


def test_weights_that_a_loader_makes_up_are_refuted(bench, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(base("qwen2"), folder)
    folder = rewrite(folder, lambda pieces: pieces.pop("lm_head.weight") and None)

    cell = probe(bench, folder, "transformers")

    assert cell.verdict is R
    assert "makes up what it does not find (missing keys: lm_head.weight)" in cell.reason
    assert [obstacle.invariant for obstacle in cell.foretold] == ["stored-head"]
    assert cell.surprise == ""


@needs_mlx
def test_an_engine_that_ignores_where_a_config_states_theta_is_caught(bench, tmp_path):
    stated = {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
    folder = look_alike("mixtral", tmp_path, ("rope_theta",), **stated)

    cell = probe(bench, folder, "mlx")

    assert cell.verdict is R
    assert "answers otherwise than Transformers does" in cell.reason
    assert [obstacle.invariant for obstacle in cell.foretold] == ["stated-theta"]


@needs_llama
def test_the_founding_bug_is_foretold_and_confirmed_and_padding_passes(bench, tmp_path):
    for mode in ("slice", "pad"):
        run_stage("prune", "qwen2", tmp_path / mode, strategy="magnitude", level=0.25, defragMode=mode)

    assert probe(bench, tmp_path / "slice", "transformers").verdict is C
    cut = probe(bench, tmp_path / "slice", "llama_cpp")
    assert cut.verdict is R
    assert [obstacle.invariant for obstacle in cut.foretold] == ["square-attention"]
    assert "wrong shape" in cut.reason
    assert cut.surprise == ""
    assert probe(bench, tmp_path / "pad", "llama_cpp").verdict is C


@needs_llama
def test_stacked_experts_run_where_the_headers_say_so_and_nowhere_else(bench, tmp_path):
    import torch
    import transformers

    for family in ("qwen3_moe", "olmoe"):
        folder = tmp_path / family
        model = transformers.AutoModelForCausalLM.from_pretrained(base(family), dtype=torch.bfloat16)
        model.save_pretrained(folder, save_original_format=False)
        for file in (base(family) / "config.json", *base(family).glob("tokenizer*")):
            shutil.copy(file, folder)

    assert probe(bench, tmp_path / "qwen3_moe", "llama_cpp").verdict is C
    refused = probe(bench, tmp_path / "olmoe", "llama_cpp")
    assert (refused.verdict, refused.surprise) == (R, "")
    assert "Unprocessed experts" in refused.reason


@needs_mlx
def test_a_mlx_quantisation_runs_and_agrees(bench, tmp_path):
    run_stage("quant", "qwen3", tmp_path, format="mlx", quantTypes=["4bit", "8bit"])
    shutil.copytree(base("qwen3"), tmp_path, dirs_exist_ok=True)

    cells = matrix(folder_forms(tmp_path), [RUNTIMES["mlx"]], bench)

    assert [(cell.form, cell.precision, cell.verdict) for cell in cells] == [
        ("mlx-4bit", "mlx-4bit", C),
        ("mlx-8bit", "mlx-8bit", C),
    ]


def test_dtypes_and_bitsandbytes_run_in_transformers(bench, tmp_path):
    run_stage("quant", "qwen3", tmp_path, format="safetensors", quantTypes=["f16", "nf4", "int8"])
    shutil.copytree(base("qwen3"), tmp_path, dirs_exist_ok=True)

    cells = {cell.form: cell for cell in matrix(folder_forms(tmp_path), [RUNTIMES["transformers"]], bench)}

    assert {name: cell.verdict for name, cell in cells.items()} == {
        "": C,
        "bitsandbytes-int8": C,
        "bitsandbytes-nf4": C,
        "safetensors-f16": C,
    }, [cell.reason for cell in cells.values()]


@pytest.mark.skipif(bool(missing("onnxruntime")), reason=f"unchecked: {missing('onnxruntime')}")
def test_an_exported_graph_runs_and_agrees(bench, tmp_path):
    run_stage("quant", "qwen2", tmp_path, format="onnx", quantTypes=["f32"])
    shutil.copytree(base("qwen2"), tmp_path, dirs_exist_ok=True)

    cell = probe(bench, tmp_path, "onnxruntime")

    assert (cell.form, cell.verdict) == ("onnx-f32", C), cell.reason
    assert cell.evidence["agreement"]["error"] < 1e-4

    if why_not := missing("openvino"):
        pytest.skip(f"unchecked: {why_not}")
    cell = probe(bench, tmp_path, "openvino")
    assert (cell.form, cell.verdict) == ("onnx-f32", C), cell.reason
    assert cell.evidence["agreement"]["error"] < 1e-4
    own = tmp_path / "openvino"
    own.mkdir()
    ran = python(
        "import openvino\n"
        f"graph = openvino.convert_model({str(tmp_path / 'onnx-f32/model.onnx')!r})\n"
        f"openvino.save_model(graph, {str(own / 'openvino_model.xml')!r}, compress_to_fp16=False)\n"
    )
    assert ran.code == 0, ran.err
    cell = probe(bench, tmp_path, "openvino")
    assert (cell.form, cell.verdict) == ("openvino", C), cell.reason
    assert cell.evidence["agreement"]["error"] < 1e-4


GGUF_FILE = gguf_bytes([("t", (2, 2))])


@pytest.mark.parametrize(
    ("driver", "verdict", "says"),
    [
        (engines.Steady, P, "the artifact ships no unquantised safetensors"),
        (engines.Incomplete, U, "lacks something here: ImportError: sentencepiece"),
        (engines.Silent, R, "generates nothing"),
        (engines.Stray, R, "generates the token id 37, and there are 32"),
        (engines.Fickle, R, "asked twice, it answers differently"),
        (engines.NotANumber, R, "NaN"),
        (engines.Segfault, R, "it crashes (load)"),
        (engines.Raise, R, "it refuses (load)"),
        (engines.Unimportable, U, "does not start here"),
    ],
)
def test_what_an_engine_does_decides(driver, verdict, says, tmp_path):
    (tmp_path / "m.gguf").write_bytes(GGUF_FILE)

    with Bench(Limits(seconds=20)) as bench:
        cell = bench.probe(folder_forms(tmp_path)[0], engines.runtime(driver))

    assert cell.verdict is verdict
    assert says in cell.reason


def test_nothing_is_confirmed_without_the_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("FORGEKIT_RUNTIME_TRANSFORMERS_PYTHON", str(tmp_path / "nowhere"))
    forms = folder_forms(base("qwen2"))

    with Bench(Limits(seconds=20)) as bench:
        cell = bench.probe(forms[0], engines.runtime(engines.Steady, reads=("safetensors",)), forms)

    assert cell.verdict is U
    assert "the reference cannot run" in cell.reason


def test_a_machine_too_small_to_tell_accuses_nobody(tmp_path):
    (tmp_path / "m.gguf").write_bytes(GGUF_FILE)
    form = folder_forms(tmp_path)[0]

    with Bench(Limits(seconds=20, memory=(2 << 30) + (64 << 20))) as little, Bench(Limits(seconds=20)) as enough:
        engine = engines.runtime(engines.Eat)
        assert little.probe(form, engine).verdict is U
        assert enough.limits.bytes() > 2 * memory_needed(engine, form)


def test_an_architecture_we_do_not_know_how_to_ask_is_not_held_against_it(tmp_path):
    folder = look_alike("qwen2", tmp_path, model_type="t5", architectures=["T5ForConditionalGeneration"])
    engine = engines.runtime(engines.Puzzled, reads=("safetensors",))

    with Bench(Limits(seconds=20)) as bench:
        unknown = bench.probe(folder_forms(folder)[0], engine)
        known = bench.probe(folder_forms(base("qwen2"))[0], engine)

    assert (unknown.verdict, known.verdict) == (U, R)
    assert "does not know how this architecture is asked" in unknown.reason


def test_tokens_without_logits_confirm_only_where_they_are_the_reference_s(bench):
    forms = folder_forms(base("qwen2"))

    cell = bench.probe(forms[0], engines.runtime(engines.Mute, reads=("safetensors",)), forms)

    assert cell.verdict is R
    assert "its first 0 tokens are the reference's" in cell.reason


def test_weights_that_change_under_a_bench_are_asked_anew(bench, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(base("qwen2"), folder)
    first = probe(bench, folder, "transformers").evidence["outputHash"]
    tiny.write(FAMILIES["qwen2"], tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other/model.safetensors", folder)

    assert probe(bench, folder, "transformers").evidence["outputHash"] != first


def test_hostile_bytes_are_given_to_no_engine(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([("t", (2, 2)), ("u", (2, 2))], place=0))

    def hostile(_form):
        yield Obstacle(invariant="x", effect="hostile", text="it is hostile")

    with Bench() as bench:
        cell = bench.probe(folder_forms(tmp_path)[0], engines.runtime(engines.Segfault, invariants=(hostile,)))
        assert bench._engines == {}

    assert cell.verdict is R
    assert cell.reason == "not given to the engine: it is hostile"


def test_what_needs_more_memory_than_there_is_is_left_unchecked(tmp_path):
    (tmp_path / "m.gguf").write_bytes(GGUF_FILE)
    form = folder_forms(tmp_path)[0]

    with Bench(Limits(memory=1 << 20)) as bench:
        cell = bench.probe(form, engines.runtime(engines.Steady))

    assert cell.verdict is U
    assert "GB of memory" in cell.reason
    assert memory_needed(RUNTIMES["transformers"], form) > form.total


def test_an_engine_that_is_not_installed_is_unchecked_and_says_how_to_get_it():
    forms = folder_forms(base("qwen2"))

    with Bench() as bench:
        cells = matrix(
            forms, [engines.runtime(engines.Steady, modules=("no_such_engine",), reads=("safetensors",))], bench
        )

    assert cells[0].verdict is U
    assert "no_such_engine is not installed" in cells[0].reason


def test_an_artifact_without_anything_for_a_runtime_is_unproven():
    cell = foretold(folder_forms(base("qwen2")), [RUNTIMES["onnxruntime"]])[0]

    assert cell.verdict is P
    assert cell.reason == "ONNX Runtime reads onnx, and the artifact ships safetensors"


def test_headers_that_cannot_be_had_are_unchecked_and_not_held_against_the_publisher():
    form = folder_forms(base("qwen2"))[0]

    def unreachable(_form):
        raise SourceError("the Hub does not answer")

    with Bench() as bench:
        cell = bench.probe(form, engines.runtime(engines.Steady, invariants=(unreachable,), reads=("safetensors",)))

    assert (cell.verdict, cell.reason) == (U, "its headers cannot be read: the Hub does not answer")


def test_a_surprise_is_said_in_either_direction():
    obstacle = Obstacle(invariant="x", effect="refuse", text="t")

    def cell(verdict, *foretold_, **evidence):
        return Probed(
            runtime="r", form="", precision="", verdict=verdict, reason="", foretold=foretold_, evidence=evidence
        )

    assert "and it runs" in cell(C, obstacle, asked=True).surprise
    assert "and it fails" in cell(R, asked=True).surprise
    assert cell(R, obstacle, asked=True).surprise == ""
    assert cell(R).surprise == ""
    assert json.loads(json.dumps(cell(C, obstacle, asked=True).tree()))["surprise"]


def test_prompts_made_of_ids_are_the_same_everywhere_and_within_the_vocabulary():
    assert plain_prompts(512) == plain_prompts(512)
    assert all(len(prompt) == 8 and all(0 <= token < 32 for token in prompt) for prompt in plain_prompts(32))
    assert plain_prompts(32) != plain_prompts(512)


def test_a_type_that_numpy_lacks_is_our_lack_and_not_the_graph_s():
    from types import SimpleNamespace

    from forgekit.runtimes.onnxruntime import Driver

    driver = Driver()
    given = SimpleNamespace(name="past_key_values.0.key", shape=[1, 2, "n", 8], type="tensor(bfloat16)")
    driver.session = SimpleNamespace(get_inputs=lambda: [given])

    with pytest.raises(ImportError, match=r"NumPy has no bfloat16, which the graph takes as past_key_values\.0\.key"):
        list(driver.inputs())
