"""Core ML on a machine that cannot run it: coremltools converts and reads graphs, and nothing is called run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from forgekit.findings import Verdict
from forgekit.forms import folder_forms
from forgekit.models.tools import interpreter
from forgekit.probing.bench import Bench, Limits, matrix, unavailable
from forgekit.runtimes import RUNTIMES
from forgekit.runtimes.coreml import CONVERTER, Driver, elsewhere
from tests.support.models import base, copy_of, rewrite, set_config

CORE = RUNTIMES["coreml"]
WHY_NOT = unavailable(replace(CORE, elsewhere=str), None, Limits())
NO_CONVERTER = unavailable(CONVERTER, None, Limits())
pytestmark = [
    pytest.mark.xdist_group("coreml"),
    pytest.mark.skipif(bool(WHY_NOT), reason=f"unchecked: {WHY_NOT}"),
    pytest.mark.skipif(not elsewhere(), reason="unchecked: here Core ML runs, and is asked to"),
]
MAKE = """\
import sys
import coremltools as ct, numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
rng = np.random.default_rng(0)
table, head = (rng.standard_normal(shape).astype(np.float32) for shape in ((32, 8), (8, 32)))
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8), dtype=types.int32)])
    def program(x):
        return mb.matmul(x=mb.gather(x=table, indices=x, axis=0), y=head, name="logits")
    made = ct.convert(program, convert_to="mlprogram", skip_model_load=True)
    spec = made.get_spec()
    ct.utils.rename_feature(spec, "x", name)
    ct.models.MLModel(spec, weights_dir=made.weights_dir, skip_model_load=True).save(path)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coreml")
    named = [part for name in ("input_ids", "image") for part in (name, str(folder / f"{name}.mlpackage"))]
    ran = subprocess.run([interpreter("coreml"), "-W", "ignore", "-c", MAKE, *named], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()[-500:]
    return folder


@pytest.fixture(scope="module")
def bench():
    with Bench() as opened:
        yield opened


def told(folder, bench):
    return matrix(folder_forms(folder), [CORE], bench)[0]


def test_a_package_s_graph_is_read_where_it_cannot_be_run(packages, tmp_path, bench):
    shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")

    cell = told(tmp_path, bench)

    assert cell.verdict is Verdict.UNCHECKED
    assert cell.reason.startswith("Core ML predicts on macOS only; its graph is read (")
    assert cell.evidence["graph"]["inputs"] == ["input_ids"]
    assert cell.evidence["graph"]["weightBytes"] >= 2 * 32 * 8 * 2


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda package: shrink(package / "Data/com.apple.CoreML/weights/weight.bin"), "holds no whole weight at byte"),
        (lambda package: (package / "Data/com.apple.CoreML/weights/weight.bin").unlink(), "holds no weight at byte"),
        (lambda package: shrink(package / "Data/com.apple.CoreML/model.mlmodel"), "its graph cannot be read"),
    ],
    ids=["truncated weights", "no weights", "truncated graph"],
)
def test_a_package_that_lacks_what_its_graph_reads_is_refuted(harm, says, packages, tmp_path, bench):
    package = shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")
    harm(package)

    cell = told(tmp_path, bench)

    assert cell.verdict is Verdict.REFUTED
    assert says in cell.reason


def shrink(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_a_graph_that_takes_pictures_is_no_language_model(packages, tmp_path, bench):
    shutil.copytree(packages / "image.mlpackage", tmp_path / "m.mlpackage")

    cell = told(tmp_path, bench)

    assert cell.verdict is Verdict.REFUTED
    assert "the graph takes image" in cell.reason


def test_without_coremltools_the_reason_names_both(packages, tmp_path, monkeypatch):
    shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("FORGEKIT_RUNTIME_COREML_PYTHON", str(bare))

    with Bench() as other:
        cell = told(tmp_path, other)

    assert cell.verdict is Verdict.UNCHECKED
    assert "predicts on macOS only, and its graph is not read" in cell.reason


needs_converter = pytest.mark.skipif(bool(NO_CONVERTER), reason=f"unchecked: {NO_CONVERTER}")


@needs_converter
@pytest.mark.parametrize("name", ["qwen2", "mixtral"])
def test_a_checkpoint_is_converted_and_its_graph_holds_every_weight(name, bench):
    cell = told(base(name), bench)

    assert cell.verdict is Verdict.UNCHECKED
    assert cell.reason.startswith("Core ML predicts on macOS only; it is converted here, the graph is read (")
    assert cell.reason.endswith("and not run")
    assert cell.foretold == ()
    graph = cell.evidence["graph"]
    assert (graph["inputs"], graph["outputs"]) == (["input_ids", "causal_mask"], ["logits"])
    text = sum(
        placed.tensor.count
        for tensor, placed in folder_forms(base(name))[0].checkpoint.tensors.items()
        if "visual" not in tensor
    )
    assert graph["weightBytes"] == pytest.approx(4 * text, rel=0.02)  # small ones stand in the graph itself


@needs_converter
def test_what_coremltools_does_not_convert_is_foretold_and_not_held_against_the_publisher(bench):
    cell = told(base("deepseek_v2"), bench)

    assert cell.verdict is Verdict.UNCHECKED
    assert [obstacle.invariant for obstacle in cell.foretold] == ["real-rotation"]
    assert "it is not converted here: coremltools: Not" in cell.reason


@needs_converter
def test_no_graph_is_made_that_computes_something_else_than_the_model(bench, tmp_path):
    folder = copy_of("mixtral", tmp_path)
    set_config(folder, sliding_window=8)

    cell = told(folder, bench)

    assert cell.verdict is Verdict.UNCHECKED
    assert "ValueError: a graph of 64 tokens and a causal mask computes something else" in cell.reason


@needs_converter
def test_no_graph_is_made_of_weights_that_are_not_there(bench, tmp_path):
    folder = copy_of("qwen2", tmp_path)
    changed = rewrite(folder, lambda pieces: pieces.pop("model.layers.1.mlp.down_proj.weight"))

    cell = told(changed, bench)

    assert cell.verdict is Verdict.UNCHECKED
    assert "Transformers does not find model.layers.1.mlp.down_proj.weight" in cell.reason


class Graph:
    """Stands in for what only macOS can run: logits that tell the sum of the tokens a position sees."""

    def predict(self, given):
        assert given["input_ids"].shape == (1, 8)
        seen = np.where(given["causal_mask"][0, 0] == 0, given["input_ids"][0], 0).sum(axis=1)
        return {"logits": np.eye(64)[seen][None]}


def test_a_graph_of_a_fixed_length_is_filled_up_with_what_no_token_sees():
    driver = Driver()
    driver.model, driver.made = Graph(), ["logits"]
    driver.given = {
        name: SimpleNamespace(shape=shape, WhichOneof=lambda _field: None)
        for name, shape in (("input_ids", [1, 8]), ("causal_mask", [1, 1, 8, 8]))
    }

    assert driver.logits([3, 4, 5]).argmax(axis=1).tolist() == [3, 7, 12]
    assert driver.generate([3, 4], 2) == [7, 14]
    with pytest.raises(ValueError, match="takes 8 tokens at once, and 9 are asked"):
        driver.logits([1] * 9)
