"""``forgekit catalog``: list, pull, pin and refresh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgekit.cli.shared import CatalogPaths, Json, open_catalogs, print_json
from forgekit.errors import AbsentError, ForgeError, SourceError
from forgekit.sources.catalog import Broken, Catalog, CatalogEntry

Into = Annotated[Path | None, typer.Option("--into", metavar="FOLDER", help="The catalog to write to.")]


def list_(catalog: CatalogPaths = None, as_json: Json = False) -> None:
    """Show the entries of the catalogs."""
    rows = [_row(catalog_, entry) for catalog_ in open_catalogs(catalog) for entry in catalog_.entries()]
    if as_json:
        print_json({"schema": "forgekit.catalog/1", "entries": rows})
        return
    for row in rows:
        pinned = f"pinned at {str(row['revision'])[:12]}" if row["revision"] else "not pinned"
        typer.echo(f"{row['name']:<60} {row['alloyHash'] or row['error']}  {pinned}")
    typer.echo(f"{len(rows)} entries", err=True)


def pull(
    target: Annotated[str, typer.Argument(help="hf://org for all of its artifacts, or hf://org/name.")],
    into: Into = None,
) -> None:
    """Pin every artifact of an organisation. Run again after an interruption, it goes on where it stopped."""
    from forgekit.sources.hub import ORGANISATION, HubSource, has_alloy, pin_into, repositories

    catalog = _writable(into)
    catalog.recover()
    organisation = ORGANISATION.fullmatch(target)
    names = repositories(organisation["org"]) if organisation else [HubSource.parse(target).name]
    failures: list[str] = []
    for name in names:
        if (catalog.root / name).is_dir():
            typer.echo(f"have     {name}")
            continue
        source = HubSource(name)
        try:
            if not has_alloy(source):
                typer.echo(f"no alloy {name}")
                continue
            made = pin_into(catalog, source)
        except ForgeError as error:
            failures.append(name)
            typer.echo(f"failed   {name}: {error}", err=True)
            continue
        typer.echo(f"pinned   {name}  {made.alloy_hash.short} at {made.revision[:12]}")
    if failures:
        raise SourceError(
            f"{len(failures)} of {len(names)} could not be pulled: {', '.join(failures)}", hint="run it again"
        )


def pin(
    target: Annotated[str, typer.Argument(help="hf://org/name[@revision]")],
    into: Into = None,
    yes: Annotated[bool, typer.Option("--yes", help="Replace an existing pin.")] = False,
) -> None:
    """Pin one artifact at one commit."""
    from forgekit.sources.hub import HubSource, pin_into, pin_of

    catalog = _writable(into)
    catalog.recover()
    source = HubSource.parse(target)
    made = pin_of(source)
    if (catalog.root / source.name).is_dir() and not _agreed(catalog.entry(source.name), made, yes=yes):
        return
    pin_into(catalog, source, made)
    typer.echo(f"pinned   {source.name}  {made.alloy_hash.short} at {made.revision[:12]}")


def refresh(
    names: Annotated[list[str] | None, typer.Argument(help="Entries; all that are pinned by default.")] = None,
    into: Into = None,
    yes: Annotated[bool, typer.Option("--yes", help="Replace pins that have changed.")] = False,
) -> None:
    """Compare pins with what is published now. Shows the difference; replaces nothing without --yes."""
    from forgekit.sources.hub import behind, pin_into, pin_of

    catalog = _writable(into)
    catalog.recover()
    for name in names or catalog.names():
        entry = catalog.entry(name)
        if entry.pin is None:
            typer.echo(f"not pinned  {name}")
            continue
        source = behind(entry.pin)
        made = pin_of(source)
        if _agreed(entry, made, yes=yes):
            pin_into(catalog, source, made)
            typer.echo(f"refreshed   {name}")


def _agreed(entry: CatalogEntry, made: object, *, yes: bool) -> bool:
    """Show what a new pin would change, and whether to go on."""
    from forgekit.sources.pins import Pin, differences

    assert isinstance(made, Pin)
    lines = ["it has no pin yet"] if entry.pin is None else differences(entry.pin, made)
    if not lines:
        typer.echo(f"unchanged   {entry.name}")
        return False
    typer.echo(f"changed     {entry.name}")
    for line in lines:
        typer.echo(f"  {line}")
    if not yes:
        typer.echo("  kept as it was; --yes replaces it")
    return yes


def _writable(into: Path | None) -> Catalog:
    if into is not None:
        return Catalog(into)
    found = open_catalogs(None)
    if not found:
        raise AbsentError("no catalog to write to", hint="name one with --into")
    return found[0]


def _row(catalog: Catalog, entry: CatalogEntry | Broken) -> dict[str, object]:
    base = {"name": entry.name, "catalog": str(catalog.root)}
    if isinstance(entry, Broken):
        return base | {"alloyHash": None, "revision": None, "error": str(entry.error)}
    try:
        alloy = entry.alloy()
    except ForgeError as error:
        return base | {"alloyHash": None, "revision": entry.revision, "error": error.what}
    return base | {"alloyHash": alloy.hash.short, "revision": entry.revision, "error": None}
