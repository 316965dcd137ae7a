"""The forge asks declared runtimes before it ends a chain, and stops where one says no."""

from __future__ import annotations

import json

import pytest

from forgekit import alloy
from forgekit.alloy.pointer import objects
from forgekit.errors import MachineError, PlanError, ProofError
from forgekit.findings import Verdict
from forgekit.sources.folder import FolderSource
from forgekit.store.chain import is_attested, walk
from forgekit.store.objects import open_store
from tests.support import engines
from tests.support.matrix import converter_missing, missing
from tests.support.models import a_recipe, forge_it, run_stage

needs_transformers = pytest.mark.skipif(bool(missing("transformers")), reason=f"unchecked: {missing('transformers')}")
needs_llama = pytest.mark.skipif(bool(converter_missing()), reason=f"unchecked: {converter_missing()}")
pytestmark = pytest.mark.xdist_group("validate-runtime")


def stages(*names, **more):
    made = {
        "transformers": {"type": "validate-runtime", "runtime": "transformers"},
        "llama_cpp": {"type": "validate-runtime", "runtime": "llama_cpp"},
        "pad": {"type": "prune", "strategy": "magnitude", "level": 0.25},
        "slice": {"type": "prune", "strategy": "magnitude", "level": 0.25, "defragMode": "slice"},
        "gguf": {"type": "quant", "format": "gguf", "quantTypes": ["Q8_0", "Q4_K_M"]},
        "package": {"type": "package", "format": "safetensors"},
        "publish": {"type": "publish", "org": "forgekit"},
    }
    return [made[name] | more.get(name, {}) for name in names]


def rows(forged):
    tree = json.loads(forged.alloy.read_text())
    return [row for _, row in objects(tree, "/results/stages") if row["type"] == "validate-runtime"]


@needs_llama
@needs_transformers
def test_every_form_that_passes_becomes_a_link_to_its_bytes(tmp_path):
    chain = stages("pad", "gguf", "transformers", "llama_cpp", "publish")
    path = a_recipe("qwen2", chain, tmp_path / "r", target={"runtimes": ["transformers", "llama_cpp"]})

    made = forge_it(path, tmp_path / "out", store=str(tmp_path / "store"))

    whole, quantised = rows(made)
    files = {
        row["filename"]: f"sha256:{row['sha256']}"
        for row in alloy.read_file(made.alloy).at("/results/integrity/fileHashes")
    }
    assert [(link["runtime"], link["form"]) for link in whole["links"]] == [("transformers", "")]
    links = {link["precision"]: link for link in quantised["links"]}
    assert {link["artifactHash"] for link in quantised["links"]} <= set(files.values())
    assert set(links) == {"Q8_0", "Q4_K_M"}
    for link in (*whole["links"], *quantised["links"]):
        assert link["engineVersion"]
        assert link["loadTimeMs"] > 0
        assert link["outputHash"].startswith("sha256:")
    findings = _verified(made.folder)
    kinds = {finding.claim.kind for finding in findings}
    assert kinds == {"runtime", "runtime-link", "quant-tier"}
    assert {finding.verdict for finding in findings} == {Verdict.CONFIRMED}, [f.reason for f in findings]
    store = open_store(str(tmp_path / "store"))
    attested = [link.stage for at, link in walk(store, made.chain) if is_attested(store, at)]
    assert attested == ["validate-runtime", "validate-runtime"]


def _verified(folder):
    from forgekit.checks import Settings
    from forgekit.probing.bench import Bench
    from forgekit.verify import verify

    with Bench() as bench:
        report = verify(FolderSource(folder), Settings(offline=True, bench=bench), tiers=("runtime",))
    return report.findings


@needs_llama
def test_a_runtime_that_refuses_ends_the_forge_and_names_the_invariant(tmp_path):
    path = a_recipe("qwen2", stages("slice", "llama_cpp", "publish"), tmp_path / "r")

    with pytest.raises(ProofError, match=r"llama\.cpp does not run the checkpoint") as caught:
        forge_it(path, tmp_path / "out")

    assert "square-attention" in caught.value.where
    assert "#/stages/1" in caught.value.where
    assert "pad" in caught.value.hint
    assert not list((tmp_path / "out").glob("*.alloy.json"))


@needs_transformers
def test_a_declared_runtime_that_has_not_passed_keeps_a_chain_from_ending(tmp_path):
    target = {"runtimes": ["transformers", "LlamaCpp"]}
    path = a_recipe("qwen2", stages("pad", "publish"), tmp_path / "r", target=target)

    with pytest.raises(
        PlanError, match="llama_cpp and transformers, which the recipe declares, have not passed"
    ) as caught:
        forge_it(path, tmp_path / "out")

    assert '{"type": "validate-runtime", "runtime": "llama_cpp"}' in caught.value.what
    assert not (tmp_path / "out").exists()


@needs_transformers
@pytest.mark.parametrize(
    ("chain", "where"),
    [
        (("transformers", "pad", "publish"), "#/stages/2"),
        (("pad", "transformers", "package"), "#/stages/2"),
        (("pad", "transformers", "package", "publish"), "#/stages/3"),
    ],
)
def test_a_pass_on_other_bytes_does_not_count(chain, where, tmp_path):
    path = a_recipe("qwen2", stages(*chain), tmp_path / "r", target={"runtimes": ["transformers"]})

    with pytest.raises(
        PlanError, match="transformers, which the recipe declares, has not passed on the bytes"
    ) as caught:
        forge_it(path, tmp_path / "out")

    assert where in caught.value.what


@needs_llama
def test_a_pass_before_the_quantiser_does_not_count_for_who_reads_its_files(tmp_path):
    chain = stages("llama_cpp", "gguf", "publish")
    path = a_recipe("qwen2", chain, tmp_path / "r", target={"runtimes": ["llama_cpp"]})

    with pytest.raises(PlanError, match="llama_cpp, which the recipe declares, has not passed"):
        forge_it(path, tmp_path / "out")


def test_a_pass_on_some_forms_is_not_one_on_all(tmp_path):
    chain = stages("gguf", "llama_cpp", "publish", llama_cpp={"artifact": "Q8_0"})
    path = a_recipe("qwen2", chain, tmp_path / "r", target={"runtimes": ["llama_cpp"]})

    with pytest.raises(PlanError, match="llama_cpp, which the recipe declares, has not passed"):
        forge_it(path, tmp_path / "out")


def test_a_runtime_that_is_not_here_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FORGEKIT_RUNTIME_VLLM_PYTHON", str(tmp_path / "nowhere"))
    chain = [{"type": "validate-runtime", "runtime": "vLLM"}]

    with pytest.raises(MachineError, match="vLLM cannot be asked on this machine"):
        forge_it(a_recipe("qwen2", chain, tmp_path / "r"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_runtime_nobody_knows_is_refused_by_name(tmp_path):
    chain = [{"type": "validate-runtime", "runtime": "abacus"}]

    with pytest.raises(PlanError, match="no runtime is named 'abacus'"):
        forge_it(a_recipe("qwen2", chain, tmp_path / "r"), tmp_path / "out")


@pytest.mark.parametrize(
    ("driver", "error", "says"),
    [(engines.Segfault, ProofError, "crashes"), (engines.Unimportable, MachineError, "cannot be told here")],
)
def test_what_an_engine_does_to_itself_ends_the_stage_and_not_the_forge(driver, error, says, tmp_path, monkeypatch):
    broken = engines.runtime(driver, reads=("safetensors",))
    monkeypatch.setattr("forgekit.stages.validate_runtime.find_runtime", lambda _name: broken)

    with pytest.raises(error, match=says):
        run_stage("validate-runtime", "qwen2", tmp_path, runtime="broken")


def test_a_runtime_for_which_nothing_was_made_is_an_error(tmp_path):
    with pytest.raises(ProofError, match="ONNX Runtime reads onnx, and the stages before made safetensors"):
        run_stage("validate-runtime", "qwen2", tmp_path, runtime="onnxruntime")


@needs_transformers
def test_another_cycle_does_not_run_it_again(tmp_path):
    path = a_recipe("qwen2", stages("pad", "transformers"), tmp_path / "r", cycles=2)

    assert len(rows(forge_it(path, tmp_path / "out"))) == 1


@needs_transformers
def test_the_weights_are_forged_again_on_a_machine_without_the_runtime(tmp_path, monkeypatch):
    from forgekit.forge.reforge import again

    path = a_recipe("qwen2", stages("pad", "transformers"), tmp_path / "r", target={"runtimes": ["transformers"]})
    made = forge_it(path, tmp_path / "out")
    monkeypatch.setenv("FORGEKIT_RUNTIME_TRANSFORMERS_PYTHON", str(tmp_path / "nowhere"))

    graded, _ = again(alloy.read_file(made.alloy), FolderSource(made.folder), beside=made.folder, folder=tmp_path / "a")

    assert graded.holds is True
    assert graded.grade == "bitwise"
