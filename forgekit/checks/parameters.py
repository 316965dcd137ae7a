"""The forged model has as many parameters as it says."""

from __future__ import annotations

from fractions import Fraction

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import is_number, objects
from forgekit.checkpoint import Reader
from forgekit.checkpoint.counting import count_parameters
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked
from forgekit.checks.file_hash import ROWS
from forgekit.checks.file_list import WEIGHTS
from forgekit.errors import CheckpointError, SourceError, UnreachableError
from forgekit.figures import Figure, show
from forgekit.findings import Claim, Finding
from forgekit.sources.catalog import CatalogEntry

POINTERS = ("/results/forgedParamsB", "/forgedParamsB")


def claims(alloy: Alloy) -> Found:
    for pointer in POINTERS:
        if is_number(alloy.at(pointer)):
            yield pointer, alloy.at(pointer)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    source = evidence.source

    def reader(path: str) -> Reader:
        return lambda start, size: source.read_range(path, start, size)

    try:
        listed = [row.get("filename") for _, row in objects(evidence.alloy.tree, ROWS)]
        files = {
            path: row.size
            for path, row in source.listing().items()
            if path.endswith(WEIGHTS) and row.size is not None and (path in listed or not listed)
        }
        if not files or (
            isinstance(source, CatalogEntry) and not all((source.root / path).is_file() for path in files)
        ):
            raise UnreachableError("the weight files' headers are not here")
        counted = count_parameters(files, reader)
    except SourceError as error:
        return unchecked(claim, error.what, **({"try": error.hint} if error.hint else {}))
    except CheckpointError as error:
        return unchecked(claim, f"{error.what} ({error.where})" if error.where else error.what)
    billions = Fraction(counted.parameters, 10**9)
    figure = Figure.of(claim.expected)
    said = f"the headers hold {counted.parameters:,} parameters"
    if figure.rounds(billions):
        return confirmed(claim, counted.parameters, said, files=len(counted.files))
    return refuted(claim, counted.parameters, f"{said}, {show(billions, 3)} billion", "weights: correct the count")


CHECK = Check(name="parameters", tier=3, claims=claims, settle=settle, domain="llm-forge")
