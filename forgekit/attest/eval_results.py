"""Entries for the Hub's ``.eval_results/*.yaml``, made from an evaluation that was attested.

``verifyToken`` is left out: the Hub issues it for runs of its own jobs, and nothing else may stand there.

Source: https://huggingface.co/docs/hub/eval-results; read there by ``huggingface_hub.parse_eval_result_entries``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.errors import AttestationError

FOLDER = ".eval_results"
NAMED = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(#(?P<task>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A benchmark on the Hub, and the task in its ``eval.yaml``."""

    id: str
    task: str = "default"

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        """Read ``org/name[#task]``.

        Raises:
            AttestationError: it is not of that form.
        """
        found = NAMED.fullmatch(text)
        if found is None:
            raise AttestationError(f"{text!r} is no data set of the Hub", hint="org/name#task")
        return cls(found["id"], found["task"] or "default")


KNOWN: Mapping[str, HubDataset] = {
    "humaneval": HubDataset("openai/openai_humaneval"),
    "humaneval_plus": HubDataset("evalplus/humanevalplus"),
    "mbpp": HubDataset("google-research-datasets/mbpp"),
    "mbpp_plus": HubDataset("evalplus/mbppplus"),
}
"""Where the benchmarks that forgekit scores live on the Hub."""


def entry(predicate: Mapping[str, Any], dataset: HubDataset, url: str) -> str:
    """One entry, as YAML, in percent to two decimals.

    Args:
        predicate: of an evaluation statement.
        url: where the signed statement is to be found.
    """
    counts, harness = predicate["verdicts"], predicate["harness"]
    notes = (
        f"{counts['passed']}/{counts['total']} {predicate['benchmark']['metric'] or 'passed'} by "
        f"{predicate['result']['oracle']}; published samples re-scored by {harness['name']} {harness['version']}, "
        f"the model was not run; samples Merkle root {predicate['samples']['merkleRoot']}"
    )
    rows = (
        "- dataset:",
        f"    id: {_text(dataset.id)}",
        f"    task_id: {_text(dataset.task)}",
        f"  value: {float(predicate['result']['percent'])!r}",
        f"  date: {_text(predicate['attestedAt'])}",
        "  source:",
        f"    url: {_text(url)}",
        f"    name: {_text('forgekit: signed evaluation statement')}",
        f"  notes: {_text(notes)}",
    )
    return "\n".join(rows) + "\n"


def _text(value: str) -> str:
    """A YAML scalar: JSON text is one."""
    return json.dumps(value)
