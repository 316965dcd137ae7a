"""Each quantised type a recipe names is shipped, is of that type, and loads."""

from __future__ import annotations

from collections.abc import Sequence

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, join, objects
from forgekit.checkpoint.gguf import TYPES
from forgekit.checks import Check, Evidence, Found, refuted, unchecked, unproven
from forgekit.checks.runtime import judged, partly_listed
from forgekit.errors import ForgeError, SourceError
from forgekit.findings import Claim, Finding
from forgekit.forms import Form
from forgekit.runtimes import RUNTIMES

GGUF_TYPES = frozenset(kind for kind, _, _ in TYPES.values())
READERS = {"gguf": "llama_cpp", "mlx": "mlx", "safetensors": "transformers", "onnx": "onnxruntime"}
"""The runtime that each format is written for."""
LAYER = "quant: publish the file, or drop the type from the recipe"


def claims(alloy: Alloy) -> Found:
    for pointer, stage in objects(alloy.tree, "/stages"):
        types = stage.get("quantTypes")
        if stage.get("type") == "quant" and isinstance(types, list):
            for index, name in enumerate(types):
                yield join(pointer, "quantTypes", index), name


def settle(claim: Claim, evidence: Evidence) -> Finding:  # noqa: PLR0911 - one per verdict and reason
    stage = find(evidence.alloy.tree, claim.pointer.rsplit("/", 2)[0])
    kind, name = str(stage.get("format")), str(claim.expected)
    if not _plain(name):
        return unproven(claim, f"{claim.expected!r} names no type", "quant: name the types that are shipped")
    runtime = RUNTIMES.get(READERS.get(kind, ""))
    if runtime is None:
        return unchecked(claim, f"no probe reads {kind!r}")
    try:
        forms = [form for form in evidence.forms() if form.kind == kind]
    except SourceError as error:
        return unchecked(claim, f"the artifact cannot be listed: {error.what}")
    found = _named(forms, name)
    if found is None and (partial := partly_listed(evidence)):
        return unchecked(claim, f"a file of {name} may be published and is not listed here: {partial}")
    if found is None:
        shipped = ", ".join(form.name for form in forms) or f"no {kind} at all"
        return unproven(claim, f"no {name} is shipped; there is {shipped}", LAYER)
    try:
        stated = found.precision
    except SourceError as error:
        command = f"forgekit probe {evidence.name} --runtime {runtime.name}"
        return unchecked(claim, f"{found.name} is listed, and its header cannot be read: {error.what}; try {command}")
    except ForgeError as error:
        return refuted(claim, None, f"{found.name}: {error.what}", LAYER)
    if not is_type(stated, name):
        return refuted(claim, stated, f"{found.name} is called {name}, and its header says {stated}", LAYER)
    if fallen := fallen_back(found, name):
        return refuted(claim, stated, fallen, "quant: choose a type that the widths of the model divide into")
    return judged(claim, runtime, [evidence.probe(runtime, found)], evidence.name)


def _named(forms: Sequence[Form], name: str) -> Form | None:
    """The form whose name says the type; longer types contain shorter ones, so it must be the end of a word."""
    wanted = _plain(name)
    for form in forms:
        stem = form.name.rsplit("/", 1)[-1].removesuffix(".gguf")
        if _plain(stem).endswith(wanted):
            return form
    return next((form for form in forms if wanted in _plain(form.name)), None)


def is_type(stated: str, name: str) -> bool:
    """Whether a precision read from a header is the type that is claimed.

    ``mlx-4bit`` is what a recipe calls ``4bit``; a file that does not state its type is known by that of most of its
    bytes, and ``Q4_K`` is what Q4_K_M and Q4_K_S mostly hold.
    """
    return _plain(stated).endswith(_plain(name)) or (stated in GGUF_TYPES and _plain(name).startswith(_plain(stated)))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def fallen_back(form: Form, name: str) -> str:
    """In words, when none of a K-quant's matrices could be stored as one; llama.cpp then takes other types silently."""
    if form.kind != "gguf" or "_K" not in name:
        return ""
    matrices = [tensor for tensor in form.header.tensors if len(tensor.shape) > 1]
    if matrices and not any(tensor.dtype.endswith("_K") for tensor in matrices):
        types = ", ".join(sorted({tensor.dtype for tensor in matrices}))
        return f"{form.name} is called {name}, and all its matrices are {types}: their rows do not divide into 256"
    return ""


CHECK = Check(name="quant-tier", tier="runtime", claims=claims, settle=settle, domain="llm-forge")
