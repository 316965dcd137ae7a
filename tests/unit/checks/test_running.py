"""The claims that engines settle: confirmed for what was forged, refuted where it was tampered with."""

from __future__ import annotations

import json
import shutil

import pytest

from forgekit import alloy, tiny
from forgekit.checks import Settings
from forgekit.families import FAMILIES
from forgekit.findings import Verdict
from forgekit.probing.bench import Bench
from forgekit.sources.folder import FolderSource
from forgekit.verify import verify
from tests.support.matrix import converter_missing
from tests.support.models import a_recipe, forge_it

pytestmark = [
    pytest.mark.skipif(bool(converter_missing()), reason=f"unchecked: {converter_missing()}"),
    pytest.mark.xdist_group("engines"),
]
C, R, U = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNCHECKED
CHAIN = [
    {"type": "prune", "strategy": "magnitude", "level": 0.25},
    {"type": "quant", "format": "gguf", "quantTypes": ["Q8_0"]},
    {"type": "validate-runtime", "runtime": "transformers"},
    {"type": "validate-runtime", "runtime": "llama_cpp"},
    {"type": "publish", "org": "forgekit"},
]
LINK = "/results/stages/3/links/0"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    path = a_recipe("qwen2", CHAIN, folder / "recipe", target={"runtimes": ["transformers", "llama_cpp"]})
    return forge_it(path, folder / "out").folder


@pytest.fixture
def artifact(published, tmp_path):
    return shutil.copytree(published, tmp_path / "artifact")


def change(folder, edit):
    (path,) = folder.glob("*.alloy.json")
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_bytes(alloy.write(tree))


def found(folder, bench):
    report = verify(FolderSource(folder), Settings(offline=True, bench=bench), tiers=("runtime",))
    return {finding.claim.id.split("::")[1]: finding for finding in report.findings}


def test_what_was_forged_is_confirmed_runtime_by_runtime(artifact, bench):
    findings = found(artifact, bench)

    assert {place: finding.verdict for place, finding in findings.items()} == {
        "/stages/1/quantTypes/0": C,
        "/target/runtimes/0": C,
        "/target/runtimes/1": C,
        "/target/runtimes~chain": C,
        "/results/stages/2/links/0": C,
        LINK: C,
    }, [finding.reason for finding in findings.values()]


def test_a_link_for_other_bytes_is_refuted_and_so_is_the_chain(artifact, bench):
    change(artifact, lambda tree: tree["results"]["stages"][3]["links"][0].update(artifactHash="sha256:" + "1" * 64))

    findings = found(artifact, bench)
    link = next(finding for place, finding in findings.items() if place.startswith(LINK))
    chain = next(finding for place, finding in findings.items() if "chain" in place)

    assert link.verdict is R
    assert "for other bytes" in link.reason
    assert chain.verdict is R
    assert "llama_cpp has no pass" in chain.reason


def test_a_chain_that_ends_without_a_pass_is_refuted(artifact, bench):
    change(artifact, lambda tree: tree["results"]["stages"][2].pop("links"))

    chain = next(finding for place, finding in found(artifact, bench).items() if "chain" in place)

    assert chain.verdict is R
    assert "transformers has no pass" in chain.reason


def test_a_file_that_is_not_of_the_type_it_is_called_is_refuted(artifact, bench):
    file = next(artifact.glob("*.gguf"))
    file.rename(file.with_name(file.name.replace("Q8_0", "Q4_K_M")))
    change(artifact, lambda tree: tree["stages"][1].update(quantTypes=["Q4_K_M"]))

    tier = found(artifact, bench)["/stages/1/quantTypes/0"]

    assert tier.verdict is R
    assert "is called Q4_K_M, and its header says Q8_0" in tier.reason


def test_a_type_that_is_not_in_the_folder_is_unchecked(artifact, bench):
    next(artifact.glob("*.gguf")).unlink()

    findings = found(artifact, bench)

    assert findings["/stages/1/quantTypes/0"].verdict is U
    assert "it is not in the folder" in findings["/stages/1/quantTypes/0"].reason


def test_what_an_unpinned_catalog_does_not_hold_may_still_be_published(artifact, tmp_path):
    from forgekit.sources.catalog import Catalog

    alloys = tmp_path / "catalog/lab/x"
    alloys.mkdir(parents=True)
    shutil.copy(next(artifact.glob("*.alloy.json")), alloys)
    report = verify(Catalog(tmp_path / "catalog").entry("lab/x"), Settings(offline=True), tiers=("runtime",))

    asked = [f for f in report.findings if f.claim.kind in ("runtime", "quant-tier")]
    assert {finding.verdict for finding in asked} == {U}
    assert all("not listed here" in finding.reason for finding in asked)


def test_a_file_that_an_engine_refuses_is_refuted_in_its_words(artifact, bench):
    file = next(artifact.glob("*.gguf"))
    file.write_bytes(file.read_bytes()[:-4096])

    findings = found(artifact, bench)

    assert findings["/target/runtimes/1"].verdict is R
    assert "past the end of the file" in findings["/target/runtimes/1"].reason


def test_a_machine_without_the_engine_says_unchecked_and_where_to_look(artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("FORGEKIT_RUNTIME_LLAMA_CPP_PYTHON", str(tmp_path / "nowhere"))
    with Bench() as bench:
        findings = found(artifact, bench)

    declared = findings["/target/runtimes/1"]
    assert declared.verdict is U
    assert "cannot be run" in declared.reason
    assert "--runtime llama_cpp" in declared.reason


def test_a_header_s_type_is_the_claimed_one_or_what_it_mostly_holds():
    from forgekit.checks.quant_tier import is_type

    held = (("Q4_K_M", "Q4_K_M"), ("mlx-4bit", "4bit"), ("Q4_K", "Q4_K_M"), ("F16", "f16"))
    other = (("Q8_0", "Q4_K_M"), ("Q4_K", "Q5_K_M"), ("mlx-8bit", "4bit"), ("F16", "Q8_0"))
    assert all(is_type(*pair) for pair in held)
    assert not any(is_type(*pair) for pair in other)


def test_a_link_is_held_to_the_bytes_that_are_here(artifact, bench):
    other = artifact.parent / "other"
    tiny.write(FAMILIES["qwen2"], other, seed=1)
    shutil.copy(other / "model.safetensors", artifact / "model.safetensors")

    link = found(artifact, bench)["/results/stages/2/links/0"]

    assert link.verdict is R
    assert "other bytes than the weights here" in link.reason


def test_a_pass_on_one_file_is_not_a_pass_on_all(artifact, bench):
    from forgekit.checks.runtime_link import without_pass

    def another(tree):
        rows = tree["results"]["integrity"]["fileHashes"]
        rows.append({"filename": "made-Q4_K_M.gguf", "sha256": "2" * 64, "size": 1})

    change(artifact, another)

    assert "llama_cpp" in without_pass(alloy.read_file(next(artifact.glob("*.alloy.json"))))
    assert found(artifact, bench)["/target/runtimes~chain"].verdict is R


def test_a_k_quant_that_fell_back_is_refuted(tmp_path):
    from forgekit.checks.quant_tier import fallen_back
    from forgekit.forms import folder_forms
    from tests.support.gguf import gguf_bytes

    (tmp_path / "m-Q4_K_M.gguf").write_bytes(gguf_bytes([("blk.0.attn_q.weight", (64, 64))], stored=8))

    said = fallen_back(folder_forms(tmp_path)[0], "Q4_K_M")

    assert said == "m-Q4_K_M.gguf is called Q4_K_M, and all its matrices are Q8_0: their rows do not divide into 256"
    assert fallen_back(folder_forms(tmp_path)[0], "Q8_0") == ""


def test_a_link_to_a_split_file_is_held_to_all_its_parts():
    from forgekit import digest
    from forgekit.checks.runtime_link import published_hash

    rows = [{"filename": f"m-0000{part}-of-00002.gguf", "sha256": str(part) * 64, "size": 1} for part in (1, 2)]
    tree = {"results": {"integrity": {"fileHashes": [*rows, {"filename": "adapter.safetensors", "sha256": "3" * 64}]}}}
    made = alloy.read(json.dumps(tree).encode())

    whole = digest.model_hash((row["filename"], row["sha256"]) for row in rows)
    assert published_hash(made, "m-00001-of-00002.gguf") == str(whole)
    assert published_hash(made, "") is None, "an adapter beside is no checkpoint"
