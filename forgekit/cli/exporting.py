"""``forgekit attest``: provenance and bills of materials, and what signed statements are worth."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.attesting import PASSWORD, keys_asked
from forgekit.cli.model_signing import exit_code, files_json, print_files
from forgekit.cli.shared import (
    CatalogPaths,
    Json,
    Offline,
    open_catalogs,
    print_json,
)
from forgekit.errors import AttestationError
from forgekit.findings import Verdict
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.attest.checked_files import FileFinding
    from forgekit.attest.signing import Judgement
    from forgekit.sources import Source

REFUTED, NOTHING_CHECKED = 1, 3
EPOCH = "SOURCE_DATE_EPOCH"
Target = Annotated[str, typer.Argument(help="A folder, an alloy file, hf://org/name[@revision], or a catalog entry.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write here; else it is printed.")]
KeyId = Annotated[str | None, typer.Option("--key-id", help="The id that registries list the key under.")]


def provenance(
    target: Target,
    key: Annotated[Path | None, typer.Option("--key", help="Sign it, as a DSSE envelope, with this key.")] = None,
    key_id: KeyId = None,
    out: Out = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
) -> None:
    """Write the stage chain as an in-toto statement with SLSA v1 provenance.

    The files that are at hand must be those the alloy records; otherwise nothing is written.
    """
    from forgekit.attest.provenance import provenance as made

    if (key is None) != (key_id is None):
        raise typer.BadParameter("--key and --key-id go together")
    source = open_target(target, open_catalogs(catalog), offline=offline)
    alloy = source.alloy()
    _hold(source)
    data = made(alloy, epoch=epoch())
    _write(out, data + b"\n" if key is None else _enveloped(data, key, str(key_id)))


def bom(target: Target, out: Out = None, catalog: CatalogPaths = None, offline: Offline = False) -> None:
    """Write a CycloneDX bill of materials with a model card.

    The files that are at hand must be those the alloy records; otherwise nothing is written.
    """
    from forgekit.attest.mlbom import bom as made

    source = open_target(target, open_catalogs(catalog), offline=offline)
    alloy = source.alloy()
    _hold(source)
    _write(out, made(alloy, epoch=epoch()))


def verify(
    statement: Annotated[Path, typer.Argument(help="DSSE envelopes, one a line, as these commands write them.")],
    target: Annotated[str | None, typer.Option(help="Hold the artifact's files to the statement as well.")] = None,
    keys: Annotated[Path | None, typer.Option(help="The key registry. Default: $FORGEKIT_KEYS.")] = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Say what signed statements are worth by a key registry, and whether an artifact is the one they are about."""
    from forgekit.attest import dsse

    registry = keys_asked(keys)
    if registry is None:
        typer.echo("nothing could be checked: no key registry is given\n  try  --keys KEYS.json", err=True)
        raise typer.Exit(NOTHING_CHECKED)
    source = open_target(target, open_catalogs(catalog), offline=offline) if target else None
    held = [text for text in _bytes(statement).splitlines() if text.strip()]
    if not held:
        raise AttestationError("there is no statement here", where=str(statement))
    rows = []
    for text in held:
        envelope = dsse.read(text, str(statement))
        judged = dsse.judge(envelope, registry)
        rows.append(_verified(judged, envelope.payload, source, str(statement)))
    _print_verified(statement, rows, as_json=as_json)
    verdicts = [verdict for row in rows for verdict in (row.verdict, *(file.verdict for file in row.files))]
    raise typer.Exit(exit_code([row.verdict for row in rows], refuted=Verdict.REFUTED in verdicts))


# --- signed statements ------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verified:
    """What one signed statement is worth."""

    judgement: Judgement
    predicate_type: str
    files: Sequence[FileFinding]

    @property
    def verdict(self) -> Verdict:
        standing = self.judgement.standing
        if standing == "invalid":
            return Verdict.REFUTED
        return Verdict.CONFIRMED if standing == "valid" else Verdict.UNCHECKED


def _verified(judged: Judgement, payload: bytes, source: Source | None, where: str) -> _Verified:
    """The statement and its subjects are only read where its signature holds."""
    from forgekit.attest import statement
    from forgekit.attest.checked_files import recorded

    if judged.standing == "invalid":
        return _Verified(judgement=judged, predicate_type="", files=())
    tree = statement.read(payload, where)
    files = recorded(source, statement.subjects(tree, where)) if source is not None else []
    return _Verified(judgement=judged, predicate_type=str(tree.get("predicateType")), files=files)


def _print_verified(path: Path, rows: Sequence[_Verified], *, as_json: bool) -> None:
    if as_json:
        told = [
            {
                "verdict": row.verdict.value,
                "standing": row.judgement.standing,
                "reason": row.judgement.reason,
                "keyId": row.judgement.key_id,
                "owner": row.judgement.owner or None,
                "predicateType": row.predicate_type or None,
                "files": files_json(row.files),
            }
            for row in rows
        ]
        print_json({"schema": "forgekit.statements/1", "file": str(path), "statements": told})
        return
    for row in rows:
        typer.echo(f"{row.verdict.value:<10} {row.predicate_type or 'statement'}  {row.judgement.reason}")
        print_files(row.files)


# --- files and times --------------------------------------------------------


def _hold(source: Source) -> None:
    """Stop where a file at hand is not the one the alloy records; say what could not be held to anything."""
    from forgekit.attest.checked_files import recorded
    from forgekit.attest.materials import files

    rows = recorded(source, files(source.alloy()))
    wrong = [row for row in rows if row.verdict is Verdict.REFUTED]
    if wrong:
        for row in wrong:
            typer.echo(f"refuted    {row.path}  {row.reason}", err=True)
        typer.echo("nothing is written: the artifact is not the one the alloy describes", err=True)
        raise typer.Exit(REFUTED)
    held = sum(row.verdict is Verdict.CONFIRMED for row in rows)
    if held < len(rows):
        typer.echo(f"{held} of {len(rows)} files are held to the alloy; the others are not at hand", err=True)


def _enveloped(data: bytes, key: Path, key_id: str) -> bytes:
    from forgekit.attest import dsse

    return line(dsse.sign(data, private(key), key_id))


def line(envelope: Any) -> bytes:
    """An envelope as one line of a bundle of attestations."""
    import json

    return json.dumps(envelope.tree(), separators=(",", ":")).encode() + b"\n"


def private(key: Path) -> Any:
    """A private key from PEM, with the password of the environment.

    Raises:
        AttestationError: it cannot be read.
    """
    from forgekit.attest import algorithms

    password = os.environ.get(PASSWORD)
    return algorithms.private_key(_bytes(key), password.encode() if password else None)


def _write(out: Path | None, data: bytes) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    put(out, data)
    typer.echo(f"{out}: {len(data):,} bytes")


def put(path: Path, data: bytes) -> None:
    from forgekit.alloy.files import write_atomically

    write_atomically(path, data)


def epoch() -> int | None:
    """SOURCE_DATE_EPOCH, as reproducible-builds.org has it.

    Raises:
        AttestationError: it is no number of seconds.
    """
    text = os.environ.get(EPOCH)
    if not text:
        return None
    if not text.isdecimal() or int(text) > 253402300799:  # the last second that four digits of a year can say
        raise AttestationError(f"{text!r} is no number of seconds", where=EPOCH)
    return int(text)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
