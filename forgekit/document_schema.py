"""The schema of a document as JSON Schema, for readers in other languages."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from forgekit.domains import Domain
from forgekit.resolve import document_type

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(domains: tuple[Domain, ...]) -> dict[str, Any]:
    """JSON Schema of an alloy of these domains: root fields and the parameters of every stage type.

    It accepts what ``forgekit.resolve.schema_problems`` accepts. Unknown
    fields and unknown stage types are allowed: they are kept, and the plan
    says what it makes of them.
    """
    document = document_type(domains)
    stages = {name: domain.stages[name] for domain in domains for name in domain.stages}
    models: list[Any] = [(document, "validation"), *((stage.params, "validation") for stage in stages.values())]
    references, shared = models_json_schema(models, by_alias=True)
    definitions: dict[str, Any] = shared["$defs"]
    root = definitions.pop(references[(document, "validation")]["$ref"].rsplit("/", 1)[-1])
    root["properties"]["stages"]["items"] = {
        "allOf": [
            {"$ref": "#/$defs/StageRecord"},
            *(
                {
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": references[(stage.params, "validation")],
                }
                for name, stage in stages.items()
            ),
        ]
    }
    names = ", ".join(domain.name for domain in domains)
    return {"$schema": DIALECT, **root, "title": "Alloy", "description": f"An alloy of {names}.", "$defs": definitions}
