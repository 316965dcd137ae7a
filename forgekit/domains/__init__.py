"""Domains: which stages and which root fields an alloy of one trade may have.

The core document knows who made what from what, with which hashes. A domain
adds the rest: ``llm-forge`` the models, ``photo-provenance`` the pictures,
``ticketing`` the tickets. An alloy names its domains in ``domains``; those
older than the field are of ``llm-forge``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forgekit.alloy.node import Node
from forgekit.registry import Registry
from forgekit.stages import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One trade.

    Attributes:
        name: as it stands in an alloy's ``domains``.
        stages: the stage types it owns.
        root: the root fields it adds to the document, as a Node with those fields only.
        family_at: JSON pointer to the string that names the family; None where stages need no family.
    """

    name: str
    stages: Mapping[str, Stage]
    root: type[Node]
    family_at: str | None = None


DOMAINS = Registry("domain", "forgekit.domains", Domain, hyphens=True)
