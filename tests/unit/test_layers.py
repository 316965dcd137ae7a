"""Imports point down. The table below is the architecture."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.running import ROOT, python

PACKAGE = ROOT / "forgekit"
ROWS = [
    {"errors", "figures", "findings", "registry", "digest"},
    {"alloy", "checkpoint", "sandbox", "sources", "store"},
    {
        "families",
        "metrics",
        "head_metrics",
        "benchmarks",
        "tiny",
        "models",
        "forms",
        "runtimes",
        "probing",
        "importance",
        "surgery",
        "stages",
        "domains",
    },
    {"resolve", "document_schema"},
    {"forge", "attest"},
    {"checks", "verify", "gaps", "amending"},
    {"report"},
    {"cli", "pytest_plugin", "suite", "__main__"},
]
# inside a row, only these: a cut is of a family and can be switched off in a model, a stage chooses what is cut,
# a domain lists stages, verify walks the checks
INSIDE = {
    ("tiny", "families"),
    ("models", "families"),
    ("models", "metrics"),
    ("models", "surgery"),
    ("head_metrics", "metrics"),
    ("head_metrics", "models"),
    ("importance", "metrics"),
    ("surgery", "families"),
    ("surgery", "metrics"),
    ("surgery", "models"),
    ("stages", "benchmarks"),
    ("stages", "importance"),
    ("stages", "head_metrics"),
    ("stages", "metrics"),
    ("stages", "models"),
    ("stages", "forms"),
    ("stages", "probing"),
    ("stages", "runtimes"),
    ("stages", "surgery"),
    ("forms", "families"),
    ("probing", "forms"),
    ("probing", "models"),
    ("probing", "runtimes"),
    ("runtimes", "families"),
    ("runtimes", "forms"),
    ("runtimes", "models"),
    ("digest", "errors"),
    ("registry", "errors"),
    ("sources", "alloy"),
    ("store", "alloy"),
    ("store", "checkpoint"),
    ("stages", "families"),
    ("domains", "stages"),
    ("document_schema", "resolve"),
    ("verify", "checks"),
    ("suite", "pytest_plugin"),
    ("__main__", "cli"),
}
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
HEAVY = {
    *("torch", "transformers", "vllm", "peft", "accelerate", "bitsandbytes", "evalplus", "numpy", "huggingface_hub"),
    *("model_signing", "sigstore", "in_toto_attestation", "cyclonedx", "OpenSSL", "cryptography"),
}


def rooms_imported(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "forgekit":
            dotted = node.module.split(".")[1:]
            for room in dotted[:1] or [alias.name for alias in node.names]:
                yield room, node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return

    wrong = [
        f"line {line}: {room}"
        for room, line in rooms_imported(path)
        if room in RANK and room != here and RANK[room] >= RANK[here] and (here, room) not in INSIDE
    ]

    assert wrong == []


def test_every_room_has_a_place_in_the_table():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert rooms - {"__init__", "__pycache__", "py.typed"} == set(RANK)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_libraries_are_imported_inside_functions_only(path):
    at_top = [
        name.split(".")[0]
        for node in ast.parse(path.read_text()).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]

    assert HEAVY.isdisjoint(at_top)


def test_planning_and_listing_every_part_loads_nothing_heavy():
    ran = python(
        "import sys\n"
        "from forgekit.families import FAMILIES; from forgekit.stages import STAGES\n"
        "from forgekit.benchmarks import BENCHMARKS; from forgekit.domains import DOMAINS\n"
        "from forgekit.checks import CHECKS\n"
        "parts = [dict(r) for r in (FAMILIES, STAGES, BENCHMARKS, DOMAINS, CHECKS)]\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )

    assert ran.out == "[]\n", ran.err


def test_importing_forgekit_loads_nothing_but_itself():
    ran = python("import sys; before = set(sys.modules); import forgekit; print(sorted(set(sys.modules) - before))")

    assert ran.out == "['__future__', 'forgekit']\n", ran.err
