"""Packages of Core ML on a machine that cannot run them: coremltools reads the graph, and nothing is called run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from forgekit.findings import Verdict
from forgekit.forms import folder_forms
from forgekit.models.tools import interpreter
from forgekit.probing.bench import Bench, Limits, unavailable
from forgekit.runtimes import RUNTIMES
from forgekit.runtimes.coreml import elsewhere

CORE = RUNTIMES["coreml"]
WHY_NOT = unavailable(replace(CORE, elsewhere=str), None, Limits())
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


def told(folder):
    with Bench() as bench:
        forms = folder_forms(folder)
        return bench.probe(next(form for form in forms if form.kind == "mlpackage"), CORE, forms)


def test_a_package_s_graph_is_read_where_it_cannot_be_run(packages, tmp_path):
    shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")

    cell = told(tmp_path)

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
def test_a_package_that_lacks_what_its_graph_reads_is_refuted(harm, says, packages, tmp_path):
    package = shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")
    harm(package)

    cell = told(tmp_path)

    assert cell.verdict is Verdict.REFUTED
    assert says in cell.reason


def shrink(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_a_graph_that_takes_pictures_is_no_language_model(packages, tmp_path):
    shutil.copytree(packages / "image.mlpackage", tmp_path / "m.mlpackage")

    cell = told(tmp_path)

    assert cell.verdict is Verdict.REFUTED
    assert "the graph takes image" in cell.reason


def test_without_coremltools_the_reason_names_both(packages, tmp_path, monkeypatch):
    shutil.copytree(packages / "input_ids.mlpackage", tmp_path / "m.mlpackage")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("FORGEKIT_RUNTIME_COREML_PYTHON", str(bare))

    cell = told(tmp_path)

    assert cell.verdict is Verdict.UNCHECKED
    assert "predicts on macOS only, and its graph is not read" in cell.reason
