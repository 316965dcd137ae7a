"""Language models: pruned, recovered, quantised, scored."""

from __future__ import annotations

from forgekit.domains import Domain
from forgekit.domains._acceptance import AcceptanceCriteria
from forgekit.domains._llm_schema import LlmRoot
from forgekit.stages import STAGES

DOMAIN = Domain(name="llm-forge", stages=STAGES, root=LlmRoot, family_at="/source/architecture")

__all__ = ["DOMAIN", "AcceptanceCriteria"]
