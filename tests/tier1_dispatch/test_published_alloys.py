"""The published catalog: every alloy parses, round-trips, plans and hashes, and is valid by the exported schema."""

from __future__ import annotations

import jsonschema
import pytest

from forgekit import alloy, digest, resolve
from forgekit.document_schema import json_schema
from forgekit.sources.catalog import Catalog
from tests.support.published import CATALOG, folder

pytestmark = pytest.mark.tier1
ENTRIES = list(Catalog(folder(CATALOG)).entries())


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request):
    return request.param


def test_it_round_trips_byte_for_byte(entry):
    document = resolve.read_document(entry.alloy())

    assert alloy.write(document.tree()) == entry.alloy().data


def test_it_plans(entry):
    plan = resolve.plan(entry.alloy()).require()

    assert len(plan.steps) == len(entry.alloy().tree["stages"])


def test_its_model_hash_is_that_of_its_file_hashes(entry):
    integrity = entry.alloy().at("/results/integrity")
    rows = [(row["filename"], row["sha256"]) for row in integrity["fileHashes"]]

    assert digest.Digest.parse(integrity["modelHash"]) == digest.model_hash(rows)


def test_it_is_valid_by_the_exported_schema(entry):
    document = entry.alloy()
    schema = json_schema(resolve.domains_of(document))

    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(document.tree))

    assert errors == []
