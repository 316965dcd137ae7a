from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit import alloy
from forgekit.document_schema import json_schema
from forgekit.domains import DOMAINS
from forgekit.resolve import schema_problems
from forgekit.stages import STAGES
from tests.support.builders import an_alloy
from tests.support.running import EMBEDDED, forgekit

SCHEMA = json_schema((DOMAINS["llm-forge"],))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_schema_is_a_json_schema(name):
    jsonschema.Draft202012Validator.check_schema(json_schema((DOMAINS[name],)))


@pytest.mark.parametrize("path", sorted(EMBEDDED.rglob("*.alloy.json")), ids=lambda path: path.parent.name)
def test_it_validates_the_embedded_documents(path):
    VALIDATOR.validate(json.loads(path.read_bytes()))


values = st.sampled_from([None, True, 0, 1, 3.0, 3.5, -1, 2048, 10**6, "x", "yarn", "magnitude", [], ["a"], {}])
FIELDS = sorted({field.alias for stage in STAGES.values() for field in stage.params.model_fields.values()} - {"type"})
stages = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from([*STAGES, "unheard-of"]),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=4),
)


@given(st.lists(stages, min_size=1, max_size=2), st.sampled_from([1, 3.0, 0, "2", None, True]))
def test_it_accepts_exactly_what_forgekit_accepts(chain, cycles):
    tree = an_alloy(stages=chain, cycles=cycles)

    ours = schema_problems(alloy.read(alloy.write(tree)))

    assert VALIDATOR.is_valid(tree) == (ours == [])


def test_the_command_prints_it():
    ran = forgekit("schema")

    assert ran.code == 0
    assert ran.json == SCHEMA


def test_the_command_refuses_a_domain_nobody_knows():
    ran = forgekit("schema", "--domain", "sculpture")

    assert ran.code == 2
    assert ran.err.startswith("error: no domain is named 'sculpture'")
