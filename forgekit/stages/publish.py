"""Say where the artifact will be published. The forge checks that and publishes nothing."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from forgekit.stages import Given, Outcome, Stage, StageParams, Work

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
FIELDS = {"base": "base", "domain": "domain", "name": "name", "version": "version"}


class Params(StageParams):
    org: str
    repo_name_template: str = "{base}-{domain}-forged"
    include_alloy: bool = True
    card_from_benchmarks: bool = True
    tags: list[str] = []
    private: bool = False
    card_hash: str | None = None


def problems(given: Given) -> Iterator[str]:
    params = given.params
    if not PART.fullmatch(params.org):
        yield f"org {params.org!r} is not a name an organisation can have"
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(params.repo_name_template) if field is not None}
    except ValueError as error:
        yield f"repoNameTemplate {params.repo_name_template!r} cannot be filled in: {error}"
        return
    if strange := sorted(fields - FIELDS.keys()):
        yield f"repoNameTemplate has {{{strange[0]}}}; it can have {', '.join(f'{{{name}}}' for name in FIELDS)}"
    elif not PART.fullmatch(params.repo_name_template.format(**FIELDS)):
        yield f"repoNameTemplate {params.repo_name_template!r} gives no name a repository can have"


def run(work: Work) -> Outcome:
    return Outcome(
        weights=False, notes={"carriedOut": False, "reason": f"forging writes a folder; {work.params.type} is separate"}
    )


STAGE = Stage(
    name="publish",
    params=Params,
    purpose="ship",
    repeats=False,
    problems=problems,
    run=run,
)
