"""``forgekit attest prove`` and ``check-record``: one record of many, without the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import Json, print_json
from forgekit.errors import AttestationError

if TYPE_CHECKING:
    from forgekit.attest.merkle import Proof
    from forgekit.digest import Digest

REFUTED = 1
SCHEMA = "forgekit.merkle-proof/1"
RECORDS, FILES = "lines", "files"


def prove(
    samples: Annotated[Path, typer.Argument(help="A JSONL file, or a folder whose files are the records.")],
    record: Annotated[str, typer.Option(help="The record: its number from 0, or a file's name in the folder.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the proof here; else it is printed.")] = None,
) -> None:
    """Prove that one record is among those of a samples file or data set.

    Records are a file's lines without their ends, blank ones left out; or a folder's files, sorted by path.
    """
    kind, root, proof = _folder(samples, record) if samples.is_dir() else _lines(samples, record)
    document: dict[str, Any] = {"schema": SCHEMA, "records": kind, "root": str(root), **proof.tree()}
    if out is None:
        print_json(document)
        return
    from forgekit.alloy.files import write_atomically
    from forgekit.alloy.reading import render

    write_atomically(out, render(document))
    typer.echo(f"{out} proves record {proof.index} of {proof.count} under {root}")


def check_record(
    record: Annotated[Path, typer.Argument(help="A file with the record: its line, or the whole file.")],
    proof: Annotated[Path, typer.Argument(help="The proof, as `forgekit attest prove` writes it.")],
    root: Annotated[str, typer.Option("--root", help="The root that is trusted: from a signed statement or alloy.")],
    as_json: Json = False,
) -> None:
    """Check that a record is among those of a Merkle root. The root in the proof is not believed."""
    from forgekit.attest import merkle
    from forgekit.digest import Digest

    tree = _document(proof)
    held, expected = merkle.Proof.read(tree), Digest.parse(root)
    leaf = merkle.leaf_of_file(record) if tree.get("records") == FILES else _leaf(record)
    good = merkle.leads(leaf, held, expected)
    reason = (
        f"it is record {held.index} of {held.count} under {expected}"
        if good
        else f"it is not record {held.index} of {held.count} under {expected}"
    )
    verdict = "confirmed" if good else "refuted"
    if as_json:
        row = {"record": str(record), "index": held.index, "count": held.count, "root": str(expected)}
        print_json({"schema": "forgekit.record/1", **row, "verdict": verdict, "reason": reason})
    else:
        typer.echo(f"{verdict:<10} {record}  {reason}")
    raise typer.Exit(0 if good else REFUTED)


def _lines(samples: Path, record: str) -> tuple[str, Digest, Proof]:
    from forgekit.attest import merkle

    if not record.isdecimal():
        raise AttestationError(f"{record!r} is no number of a record", hint="records are counted from 0")
    records = merkle.lines(_bytes(samples))
    return RECORDS, merkle.root(records), merkle.prove(records, int(record))


def _folder(folder: Path, record: str) -> tuple[str, Digest, Proof]:
    from forgekit.attest import merkle
    from forgekit.attest.links import files_of

    files = files_of(folder)
    names = sorted(files)
    if record not in files and not record.isdecimal():
        raise AttestationError(
            f"there is no file {record!r}", where=str(folder), hint="a path in it, or a number from 0"
        )
    index = names.index(record) if record in files else int(record)
    root, proof = merkle.prove_file([files[name] for name in names], index)
    return FILES, root, proof


def _leaf(path: Path) -> bytes:
    from forgekit.attest import merkle

    records = merkle.lines(_bytes(path))
    if len(records) != 1:
        raise AttestationError(f"the file holds {len(records)} records, not one", where=str(path))
    return merkle.leaf(records[0])


def _document(path: Path) -> dict[str, Any]:
    from forgekit.alloy.reading import parse

    tree = parse(_bytes(path), where=str(path))
    if tree.get("schema") != SCHEMA or tree.get("records") not in (RECORDS, FILES):
        raise AttestationError("this is no proof", where=str(path), hint=f"its schema is {SCHEMA}")
    return tree


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
