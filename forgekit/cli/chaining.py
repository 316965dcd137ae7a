"""``forgekit store publish``, ``recipes`` and ``edits``: chains by name, what they were made by, and by whose hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgekit.cli.shared import Json, print_json
from forgekit.cli.storing import BROKEN, At, opened_at
from forgekit.digest import Digest

Link = Annotated[
    str, typer.Argument(metavar="LINK", help="Hash of a chain's last link, as `forgekit forge` prints it.")
]


def publish(
    name: Annotated[str, typer.Argument(help="What the chain is published as.")],
    link: Link,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Name a chain as published: nothing it needs is ever collected. Refused where something it needs is missing."""
    from forgekit.store.audit import publish as named
    from forgekit.store.chain import load

    opened, head = opened_at(store), Digest.parse(link)
    named(opened, name, head)
    artifact = load(opened, head).artifact
    if as_json:
        row = {"chain": name, "link": str(head), "artifact": str(artifact)}
        print_json({"schema": "forgekit.store.publish/1", "store": opened.url, **row})
        return
    typer.echo(f"{name} is published: {artifact}, and all it was made from is kept")


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe, name or name@version: it and what it descends from.")
    ] = None,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Show stored recipes; of one, the line it descends from, newest first."""
    from forgekit.store import refs
    from forgekit.store.recipes import find, lineage, versions

    opened = opened_at(store)
    if name is not None:
        found = list(lineage(opened, name))
    else:
        names = sorted({key.split("/")[2] for key in refs.keys(opened, refs.RECIPES)})
        found = [find(opened, f"{known}@{version}") for known in names for version in versions(opened, known)]
    if as_json:
        rows = [{"recipe": one.id, "object": str(one.digest), "parent": one.parent} for one in found]
        print_json({"schema": "forgekit.store.recipes/1", "store": opened.url, "recipes": rows})
        return
    for one in found:
        typer.echo(f"{one.digest}  {one.id}" + (f"  from {one.parent}" if one.parent else ""))


def edits(
    alloy: Annotated[Path, typer.Argument(help="An alloy as it is now.")],
    link: Link,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Hold an alloy against the record of the run that made it: artifacts are generated, never authored."""
    from forgekit import alloy as alloys
    from forgekit.store.recipes import edits as found_in

    found = found_in(opened_at(store), Digest.parse(link), alloys.read_file(alloy).data)
    if as_json:
        print_json({"schema": "forgekit.store.edits/1", "alloy": str(alloy), "edits": found})
    else:
        for sentence in found:
            typer.echo(f"edited    {sentence}")
        if not found:
            typer.echo(f"{alloy} says what the run wrote")
    if found:
        raise typer.Exit(BROKEN)
