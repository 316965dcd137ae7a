"""``forgekit store``: objects by content, what is kept of them, and whether chains are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import Json, bytes_progress, count_progress, print_json
from forgekit.digest import Digest
from forgekit.errors import AbsentError, StoreError, TamperedError

if TYPE_CHECKING:
    from forgekit.store.objects import Put, Store

VARIABLE = "FORGEKIT_STORE"
BROKEN, NOTHING = 1, 3
At = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help=f"The store: a folder or URL. Default: ${VARIABLE}, else user data."),
]
Verify = Annotated[bool, typer.Option("--verify", help="Read every byte, instead of asking for sizes.")]


def put(
    paths: Annotated[list[Path], typer.Argument(help="Files; a folder is an artifact of all files in it.")],
    type_: Annotated[str, typer.Option("--type", help="What they are, in a word.")] = "blob",
    link: Annotated[bool, typer.Option("--link", help="Hard links will do; do not edit the files afterwards.")] = False,
    passing: Annotated[
        bool, typer.Option("--passing", help="Do not pin: collect it unless a record names it.")
    ] = False,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Store files under the SHA-256 of their bytes."""
    from forgekit.store import refs
    from forgekit.store.objects import open_store

    opened = open_store(url_of(store))
    rows = []
    for path, file in _files(paths):
        with bytes_progress(path, file.stat().st_size) as progress:
            made = opened.put_file(file, type_, link=link, progress=progress)
        rows.append((path, made))
    found = [_put_row(path, made, type_) for path, made in rows]
    found += [_manifest_row(opened, path, rows) for path in paths if path.is_dir()]
    if not passing:
        for row in found:
            refs.pin(opened, Digest.parse(row["object"]))
    if as_json:
        print_json({"schema": "forgekit.store.put/1", "store": opened.url, "objects": found})
        return
    for row in found:
        typer.echo(f"{row['object']}  {row['how']:<8} {row['size']:>14,}  {row['path']}")


def get(
    digest: Annotated[str, typer.Argument(metavar="HASH", help="Of an object, or the modelHash of an artifact.")],
    to: Annotated[Path, typer.Option("--to", help="A file; for an artifact, a folder that does not exist yet.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write a manifest as it is, and not what it lists.")] = False,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Copy an object out; it appears when all of it was hashed and is right."""
    from forgekit.store.chain import parse_manifest
    from forgekit.store.objects import MANIFEST

    opened, wanted = opened_at(store), Digest.parse(digest)
    about = opened.about(wanted)
    try:
        if about is not None and about.type == MANIFEST and not raw:
            rows = parse_manifest(opened.read(wanted), opened.where(wanted))
            count = opened.get_all(rows, to)
        else:
            with bytes_progress(wanted.short, opened.size(wanted) or 0) as progress:
                opened.get(wanted, to, progress=progress)
            count = 1
    except (TamperedError, AbsentError) as error:
        typer.echo(f"error: {error}", err=True)
        if as_json:
            print_json({"schema": "forgekit.store.get/1", "object": str(wanted), "to": None, "error": error.what})
        raise typer.Exit(BROKEN) from None
    if as_json:
        print_json({"schema": "forgekit.store.get/1", "object": str(wanted), "to": str(to), "files": count})
        return
    typer.echo(f"{to}: {'1 file' if count == 1 else f'{count} files'}, hashed and right")


def list_(store: At = None, as_json: Json = False) -> None:
    """Show every object: hash, size, type, where it came from."""
    opened = opened_at(store)
    rows = []
    for digest, size in opened.objects():
        about = opened.about(digest)
        rows.append(
            {
                "object": str(digest),
                "size": size,
                "type": about.type if about else None,
                "origin": about.origin if about else None,
            }
        )
    if as_json:
        print_json({"schema": "forgekit.store.ls/1", "store": opened.url, "objects": rows})
        return
    for row in rows:
        typer.echo(f"{row['object']}  {row['type'] or '?':<12} {row['size']:>14,}  {row['origin'] or ''}".rstrip())
    typer.echo(f"{len(rows)} objects, {sum(int(str(row['size'])) for row in rows):,} bytes", err=True)


def unpin(
    digests: Annotated[list[str], typer.Argument(metavar="HASH...", help="Objects that need not be kept any more.")],
    store: At = None,
) -> None:
    """Let objects that were put by hand be collected, unless a record needs them."""
    from forgekit.store import refs

    opened = opened_at(store)
    for digest in digests:
        refs.unpin(opened, Digest.parse(digest))


def fsck(store: At = None, as_json: Json = False) -> None:
    """Hash every object and read every record. Repairs nothing."""
    from forgekit.store.checking import fsck as check

    opened = opened_at(store)
    with count_progress("hashing") as progress:
        found = check(opened, progress=progress)
    if as_json:
        rows = [fault.tree() for fault in found.faults]
        summary = {"objects": found.objects, "bytes": found.bytes, "faults": rows}
        print_json({"schema": "forgekit.store.fsck/1", "store": opened.url, **summary})
    else:
        for fault in found.faults:
            typer.echo(f"{fault.kind:<9} {fault.where}: {fault.reason}")
        typer.echo(f"{found.objects} objects, {found.bytes:,} bytes, {len(found.faults)} faults", err=True)
    leave(broken=bool(found.faults), nothing=not found.objects)


def gc(
    confirm: Annotated[bool, typer.Option("--confirm", help="Delete; without it, only say what would go.")] = False,
    grace: Annotated[float, typer.Option(help="Hours an object is kept though nothing names it.", min=0)] = 24.0,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Say of every object whether something needs it, and with --confirm delete what nothing does."""
    from forgekit.store.collecting import Collected, collect, plan

    opened = opened_at(store)
    seconds = grace * 3600
    found = collect(opened, grace=seconds) if confirm else Collected(decisions=plan(opened, grace=seconds))
    if as_json:
        rows = [one.tree() for one in found.decisions]
        gone = [str(digest) for digest in found.deleted]
        done = {"dryRun": not confirm, "deleted": gone, "freed": found.freed, "stopped": found.stopped or None}
        print_json({"schema": "forgekit.store.gc/1", "store": opened.url, **done, "decisions": rows})
        return
    gone_now = set(found.deleted)
    for one in found.decisions:
        word = "keep" if one.keep else "deleted" if one.digest in gone_now else "would go"
        count = f" ({one.references} references)" if one.references > 1 else ""
        typer.echo(f"{word:<9} {one.digest}  {one.size:>14,}  {one.reason}{count}")
    loose = [one for one in found.decisions if not one.keep]
    size = found.freed if confirm else sum(one.size for one in loose)
    verb = f"{len(found.deleted)} deleted" if confirm else f"{len(loose)} would go; --confirm deletes them"
    typer.echo(f"{len(found.decisions)} objects, {size:,} bytes: {verb}", err=True)
    if found.stopped:
        typer.echo(f"stopped: {found.stopped}", err=True)


def restore(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The replica.")],
    verify: Verify = False,
    with_refs: Annotated[bool, typer.Option("--refs", help="Take over the replica's records first.")] = False,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Fetch what this store's records name and it does not hold, each object hashed on the way."""
    from forgekit.store.objects import open_store
    from forgekit.store.replicas import restore as bring_back

    opened = open_store(url_of(store)) if with_refs else opened_at(store)
    with count_progress("restoring") as progress:
        found = bring_back(opened, opened_at(source), verify=verify, with_refs=with_refs, progress=progress)
    if as_json:
        print_json({"schema": "forgekit.store.restore/1", "store": opened.url, "from": source, **found.tree()})
    else:
        for digest in found.fetched:
            typer.echo(f"restored  {digest}")
        for digest, why in found.failed:
            typer.echo(f"missing   {digest}: {why}")
        typer.echo(f"{found.wanted} objects are needed, {len(found.failed)} are still missing", err=True)
    leave(broken=bool(found.failed), nothing=not found.wanted)


def _files(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """(as it is shown, file) of every file asked for, those of folders in name order.

    Raises:
        StoreError: there is no such file, or a link in a folder leads out of it.
    """
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise StoreError("there is no such file", where=str(path))
            yield str(path), path
            continue
        root = path.resolve()
        inside = [file for file in sorted(path.rglob("*")) if not file.is_dir()]
        if not inside:
            raise StoreError("the folder holds no file", where=str(path))
        for file in inside:
            if not file.resolve().is_relative_to(root):
                raise StoreError(
                    "a link leads out of the folder; nothing of it was stored",
                    where=str(file),
                    hint="name the file it points to",
                )
        yield from ((str(file), file) for file in inside)


def _put_row(path: str, made: Put, type_: str) -> dict[str, Any]:
    return {"object": str(made.digest), "size": made.size, "type": type_, "how": made.how, "path": path}


def _manifest_row(store: Store, folder: Path, rows: list[tuple[str, Put]]) -> dict[str, Any]:
    """The manifest of a folder, stored; the hash is that of the artifact."""
    from forgekit.digest import manifest
    from forgekit.store.objects import MANIFEST

    inside = [(Path(path), made) for path, made in rows if Path(path).is_relative_to(folder)]
    data = manifest((path.relative_to(folder).as_posix(), made.digest.hex) for path, made in inside)
    digest = store.put(data, MANIFEST, origin=str(folder.absolute()))
    return {"object": str(digest), "size": len(data), "type": MANIFEST, "how": "made", "path": str(folder)}


def url_of(asked: str | None) -> str:
    if asked or os.environ.get(VARIABLE):
        return asked or os.environ[VARIABLE]
    import platformdirs

    return str(Path(platformdirs.user_data_dir("forgekit")) / "store")


def opened_at(asked: str | None) -> Store:
    """A store that is there.

    Raises:
        StoreError: nothing was ever stored in this folder.
    """
    found = there(url_of(asked))
    if found is None:
        raise StoreError("there is no store", where=url_of(asked), hint="forgekit store put PATH makes one")
    return found


def there(url: str) -> Store | None:
    from forgekit.store.objects import open_store
    from forgekit.store.storage import LocalStorage

    opened = open_store(url)
    if isinstance(opened.storage, LocalStorage) and not opened.storage.root.is_dir():
        return None
    return opened


def leave(*, broken: bool, nothing: bool) -> None:
    if broken:
        raise typer.Exit(BROKEN)
    if nothing:
        raise typer.Exit(NOTHING)
