"""A CycloneDX bill of materials that its own strict schema takes, with the model card in it."""

from __future__ import annotations

import json
import uuid

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from forgekit import alloy
from forgekit.attest.mlbom import bom, validate
from forgekit.errors import AttestationError, ProofError
from tests.support import embedded
from tests.support.builders import an_alloy
from tests.support.running import EMBEDDED, python

MINIS = sorted((EMBEDDED / "minis").glob("*/*.alloy.json"))
EMBER = alloy.read_file(EMBEDDED / "forgekit" / "ember-moe-tiny" / "ember-moe-tiny.alloy.json")
ROWS = {"fileHashes": [{"filename": "model.safetensors", "sha256": "a" * 64}]}


def document(**changes):
    return alloy.read(alloy.write(an_alloy(**{"results": {"integrity": ROWS}, **changes})), where="ember.alloy.json")


def model(made):
    return json.loads(made)["metadata"]["component"]


@pytest.mark.parametrize("path", MINIS, ids=lambda path: path.parent.name)
def test_the_strict_schema_takes_it(path):
    made = bom(alloy.read_file(path))

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.decode()) is None
    assert json.loads(made)["metadata"]["component"]["type"] == "machine-learning-model"


def test_it_has_a_model_card_files_licence_and_ancestors():
    made = bom(EMBER)

    tree, component = json.loads(made), model(made)
    card = component["modelCard"]
    assert card["modelParameters"]["approach"] == {"type": "self-supervised"}
    assert card["modelParameters"]["modelArchitecture"] == "qwen3_moe"
    refs = {row["bom-ref"] for row in tree["components"]}
    assert {row["ref"] for row in card["modelParameters"]["datasets"]} < refs
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "pass@1", "slice": "forgekit_mini", "value": "87.5"},
        {"type": "pass@1", "slice": "forgekit_mini (base model)", "value": "95.8"},
    ]
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (base,) = component["pedigree"]["ancestors"]
    assert base["purl"].startswith("pkg:huggingface/forgekit/ember-moe-base-tiny@fb3ac0766c")
    hashes = {row["name"]: row["hashes"][0]["content"] for row in tree["components"] if row["type"] == "file"}
    assert hashes["model.safetensors"] == embedded._ember()[0]["results"]["integrity"]["fileHashes"][0]["sha256"]
    assert hashes["ember-moe-tiny.alloy.json"] == EMBER.hash.hex
    assert {"name": "forgekit:figures", "value": "as the alloy claims them, not re-measured"} in component["properties"]


def test_the_same_alloy_gives_the_same_bytes_and_its_number_follows_from_its_hash():
    first, again = bom(EMBER), bom(alloy.read(EMBER.data, where="x/ember-moe-tiny.alloy.json"))

    assert first == again
    number = uuid.UUID(json.loads(first)["serialNumber"])
    assert number.version == 5
    other = bom(alloy.read(EMBER.data + b"\n", where=EMBER.where))
    assert json.loads(other)["serialNumber"] != json.loads(first)["serialNumber"]


def test_it_has_no_time_but_the_one_it_is_given_or_the_alloy_has():
    assert json.loads(bom(EMBER))["metadata"]["timestamp"] == "2026-11-20T00:00:00Z"
    assert json.loads(bom(EMBER, epoch=1))["metadata"]["timestamp"] == "1970-01-01T00:00:01Z"
    assert "timestamp" not in json.loads(bom(document()))["metadata"]


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("apache-2.0", [{"license": {"id": "Apache-2.0"}}]),
        ("llama-community", [{"license": {"name": "llama-community"}}]),
        (None, None),
        ("", None),
        (7, None),
    ],
)
def test_a_licence_is_said_by_its_spdx_id_or_as_the_alloy_has_it_and_never_guessed(stated, found):
    assert model(bom(document(license=stated))).get("licenses") == found


def test_odd_fields_make_no_bill_that_the_schema_refuses():
    odd = document(
        tags=[1, "a"],
        author=7,
        description=None,
        limitations=["slow", 3],
        methodologyPaperUrl="not a url",
        receipt={"publications": [{"url": "https://example.org/a b"}, {"url": "https://example.org/x"}]},
        calibrationCorpora=[{"id": "a"}, {"id": "a"}],
    )

    component = model(bom(odd))
    assert component["externalReferences"] == [{"type": "website", "url": "https://example.org/x"}]
    assert component["modelCard"]["considerations"] == {"technicalLimitations": ["slow", "3"]}


def test_what_is_no_model_has_no_model_card_and_what_it_takes_is_not_guessed():
    with pytest.raises(AttestationError, match="it is of ticketing, and only a model"):
        bom(document(domains=["ticketing"]))
    told = document(target={"modalities": ["text", "image"]})
    assert model(bom(told))["modelCard"]["modelParameters"]["inputs"] == [{"format": "text"}, {"format": "image"}]
    assert "inputs" not in model(bom(document()))["modelCard"]["modelParameters"]


def test_what_breaks_the_schema_is_not_given_out():
    with pytest.raises(ProofError, match="CycloneDX's schema"):
        validate(bom(EMBER).replace(b'"approach"', b'"aproach"'))
    with pytest.raises(AttestationError, match="no hash of any file"):
        bom(document(results={}))


@pytest.mark.parametrize("missing", ["cyclonedx", "jsonschema"])
def test_a_missing_library_is_told_with_what_installs_it(missing):
    ran = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['forgekit', 'attest', 'bom', {str(EMBEDDED / 'forgekit' / 'ember-moe-tiny')!r}]\n"
        "from forgekit.cli import main; main()"
    )

    assert (ran.code, ran.out) == (2, "")
    assert f"the library {missing} is not installed" in ran.err
    assert "pip install 'forgekit[attest]'" in ran.err
    assert "Traceback" not in ran.err
