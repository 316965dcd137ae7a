"""Load what the stages before have made in one runtime, have it generate, and stop the forge where it does not.

Each form that passes becomes a link of the chain: the runtime and its
version, what it took, what it answered, and the hash of the bytes it was
given. ``forgekit.checks.runtime_link`` holds a link to those bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgekit.digest import model_hash, sha256_file
from forgekit.errors import MachineError, ProofError
from forgekit.findings import Verdict
from forgekit.runtimes import Runtime, find_runtime
from forgekit.stages import Outcome, Stage, StageParams, Work

if TYPE_CHECKING:
    from forgekit.forms import Form
    from forgekit.probing.cells import Probed


class Params(StageParams):
    runtime: str
    artifact: str | None = None  # only forms whose name or precision holds this


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "runtime", params.runtime


def run(work: Work) -> Outcome:
    """Probe every form that the runtime reads.

    Raises:
        ProofError: one is refused, crashes, or answers otherwise than Transformers does.
        MachineError: this machine cannot tell.
    """
    from forgekit.forms import folder_forms
    from forgekit.probing.bench import Bench, Limits
    from forgekit.probing.cells import choose

    params: Params = work.params
    if not work.validate:
        return Outcome(weights=False, notes={"runtime": params.runtime, "carriedOut": False})
    runtime = find_runtime(params.runtime)
    if runtime is None:
        raise ProofError(f"no runtime is named {params.runtime!r}")
    forms = [form for folder in (work.source, *_quantised(work)) for form in folder_forms(folder, work.recipe)]
    wanted = (params.artifact or "").lower()
    chosen = [form for form in choose(runtime, forms) if wanted in f"{form.name} {form.precision}".lower()]
    if not chosen:
        shipped = ", ".join(sorted({form.kind for form in forms})) or "no weights"
        raise ProofError(f"{runtime.title} reads {' or '.join(runtime.reads)}, and the stages before made {shipped}")
    with Bench(Limits(threads=work.threads, device=work.device)) as bench:
        links = []
        for number, form in enumerate(chosen, 1):
            links.append(_link(runtime, form, _passed(runtime, bench.probe(form, runtime, forms)), work))
            work.progress(number, len(chosen))
    return Outcome(weights=False, notes={"runtime": runtime.name, "links": links})


def _quantised(work: Work) -> Sequence[Path]:
    """Folders of the quant stages before, which hold what each wrote under the names it keeps."""
    return sorted({path.parent for kind, path in work.at_hand.items() if kind.startswith("quantised")})


def _passed(runtime: Runtime, probed: Probed) -> Probed:
    what = probed.form or "the checkpoint"
    if probed.verdict is Verdict.REFUTED:
        first = probed.foretold[0] if probed.foretold else None
        raise ProofError(
            f"{runtime.title} does not run {what}: {probed.reason}",
            where=f"{first.invariant}: {first.where}" if first else "",
            hint=first.fix if first else "",
        )
    if probed.verdict is not Verdict.CONFIRMED:
        raise MachineError(f"whether {runtime.title} runs {what} cannot be told here: {probed.reason}")
    return probed


def _link(runtime: Runtime, form: Form, probed: Probed, work: Work) -> Mapping[str, Any]:
    evidence = probed.evidence
    measured = {
        "loadTimeMs": round(evidence["loadSeconds"] * 1000),
        "peakMemoryMiB": evidence["peakMemoryMiB"],
        "tokensPerSec": evidence["tokensPerSec"],
    }
    return {
        "runtime": runtime.name,
        "form": form.name,
        "precision": probed.precision,
        "artifactHash": work.source_hash if form.path == work.source else bytes_hash(form),
        "engine": evidence["engine"],
        "engineVersion": evidence["version"],
        "device": evidence["device"],
        **(
            {} if os.environ.get("SOURCE_DATE_EPOCH") else measured
        ),  # bytes that are made again hold no clock's figures
        "promptHash": evidence["promptHash"],
        "outputHash": evidence["outputHash"],
        "agreement": evidence.get("agreement"),
    }


def bytes_hash(form: Form) -> str:
    """``sha256:`` of a file, or the modelHash of a folder's weight files.

    Raises:
        SourceError: a file cannot be read.
        DigestError: it has no weight files.
    """
    assert form.path is not None
    if form.path.is_file() and len(form.sizes) == 1:
        return str(sha256_file(form.path))
    folder = form.path if form.path.is_dir() else form.path.parent
    return str(model_hash((name, sha256_file(folder / name).hex) for name in form.weights))


STAGE = Stage(
    name="validate-runtime",
    params=Params,
    purpose="ship",
    repeats=False,
    reproducibility="statistical",
    names=names,
    run=run,
)
