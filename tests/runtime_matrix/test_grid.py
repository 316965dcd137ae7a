"""An artifact of every family in every engine that runs here: what runs, what does not, and that headers knew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forgekit.findings import Verdict
from forgekit.forms import folder_forms
from forgekit.probing.cells import choose
from forgekit.runtimes import RUNTIMES
from tests.support import forged
from tests.support.matrix import ENGINES, KNOWN, artifact, converter_missing, missing

pytestmark = pytest.mark.runtime
PAIRS = [
    pytest.param(name, runtime, marks=pytest.mark.xdist_group("engines"), id=f"{name}-{runtime}")
    for runtime in ENGINES
    for name in forged.RECIPES
]


@pytest.mark.parametrize(("name", "runtime"), PAIRS)
def test_every_artifact_does_in_every_engine_what_its_headers_foretell(
    name, runtime, bench, tmp_path_factory, monkeypatch
):
    if why_not := converter_missing() if runtime == "llama_cpp" else missing(runtime):
        pytest.skip(f"unchecked: {why_not}")
    base = tmp_path_factory.getbasetemp()
    folder = artifact(name, base.parent if base.name.startswith("popen-") else base)
    forms = folder_forms(folder)
    form = choose(RUNTIMES[runtime], forms)[0]

    expected = KNOWN.get((forged.RECIPES[name][0], runtime)) or KNOWN.get((name, runtime))
    if expected == "scaled-sections":  # a corrupted heap now and then hangs instead of aborting
        monkeypatch.setattr(bench, "limits", replace(bench.limits, seconds=20.0))

    cell = bench.probe(form, RUNTIMES[runtime], forms)

    assert cell.surprise == "", cell.reason
    assert [obstacle.invariant for obstacle in cell.foretold] == ([expected] if expected else [])
    assert cell.verdict is (Verdict.REFUTED if expected else Verdict.CONFIRMED), cell.reason
    if expected is None:
        evidence = cell.evidence
        assert evidence["loadSeconds"] > 0
        assert evidence["peakMemoryMiB"] > 0
        assert evidence["confined"]["network"] in ("its own loopback", "the machine's")
        assert len(evidence["outputTokenIds"]) == 4
        assert runtime == "transformers" or evidence["agreement"]["error"] <= 0.05
