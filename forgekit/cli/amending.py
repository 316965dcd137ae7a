"""``forgekit backfill``, ``derive``, ``republish``, ``migrate`` and ``card``: what is said, put right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import Json, console, print_json
from forgekit.errors import AbsentError

if TYPE_CHECKING:
    from forgekit.alloy import Alloy
    from forgekit.amending import Amendment
    from forgekit.sources import Source

Target = Annotated[str, typer.Argument(help="A folder, or a repository: org/name or hf://org/name[@branch].")]
Confirm = Annotated[bool, typer.Option("--confirm", help="Write or upload it; without, it is only shown.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the files into this folder instead.")]
LONGEST = 100  # characters of a value in a difference


def backfill(target: Target, confirm: Confirm = False, out: Out = None, as_json: Json = False) -> None:
    """Make the alloy of an artifact that came with forging_results.json alone."""
    from forgekit.amending.backfill import backfill as made

    source = _open(target)
    _finish(source, made(source), confirm=confirm, out=out, as_json=as_json)


def derive(
    target: Target,
    parent: Annotated[str, typer.Option("--from", help="The artifact it was made from.")],
    kind: Annotated[str, typer.Option(help="How: defragged, gguf, mlx-4bit, mlx-8bit.")],
    confirm: Confirm = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Make the alloy of an artifact that was derived from a published one."""
    from forgekit.amending.derive import derive as made

    source = _open(target)
    _finish(source, made(source, _open(parent), kind), confirm=confirm, out=out, as_json=as_json)


def republish(
    target: Target,
    alloy: Annotated[Path, typer.Option("--alloy", help="The corrected alloy.")],
    convention_migration: Annotated[
        bool, typer.Option("--convention-migration", help="modelHash changes because its convention did.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why scores change; recorded beside them.")] = "",
    confirm: Confirm = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Correct a published alloy, leaving the weights as they are."""
    from forgekit import alloy as alloys
    from forgekit.amending.republish import republish as made

    source = _open(target)
    now, path = _published(source)
    amendment = made(now, alloys.read_file(alloy), path, migration=convention_migration, reason=reason)
    _finish(source, amendment, confirm=confirm, out=out, as_json=as_json)


def migrate(target: Target, confirm: Confirm = False, out: Out = None, as_json: Json = False) -> None:
    """Bring hashes to today's conventions: modelHash, fileHashes, hashes of samples that have none."""
    from forgekit.amending.migrate import migrate as made

    source = _open(target)
    now, path = _published(source)
    _finish(source, made(source, now, path), confirm=confirm, out=out, as_json=as_json)


def card(target: Target, confirm: Confirm = False, out: Out = None, as_json: Json = False) -> None:
    """Write the model card from the alloy, and its hash into the alloy's receipt."""
    from forgekit.report.card import carded

    source = _open(target)
    now, path = _published(source)
    _finish(source, carded(source, now, path), confirm=confirm, out=out, as_json=as_json)


def _open(target: str) -> Source:
    from forgekit.sources.folder import BareFolder
    from forgekit.sources.hub import HubSource

    if Path(target).is_dir():
        return BareFolder(Path(target))
    if target.startswith("hf://"):
        return HubSource.parse(target)
    if target.count("/") != 1 or target.startswith(("/", ".")):
        raise AbsentError("there is no such folder", where=target, hint="name a folder, or a repository as org/name")
    return HubSource.parse(f"hf://{target}")


def _published(source: Source) -> tuple[Alloy, str]:
    found = source.alloy()
    return found, found.where.rpartition("/")[2]


def _finish(source: Source, amendment: Amendment, *, confirm: bool, out: Path | None, as_json: bool) -> None:
    """Show it, and put it where it was asked to go."""
    from forgekit.alloy.files import write_atomically
    from forgekit.amending.uploading import put

    written = ""
    if out is not None:
        for path, data in sorted(amendment.files.items(), key=lambda item: item[0] == amendment.alloy):
            write_atomically(out / path, data)
        written = str(out) if amendment.files else ""
    if confirm and amendment.files:
        written = put(source, amendment)
    if as_json:
        print_json(_tree(source, amendment, written))
    else:
        _show(source, amendment, written, confirm=confirm)


def _tree(source: Source, amendment: Amendment, written: str) -> dict[str, Any]:
    return {
        "schema": "forgekit.amendment/1",
        "target": source.where("").rstrip("/"),
        "alloy": amendment.alloy,
        "alloyHash": amendment.short_hash,
        "files": sorted(amendment.files),
        "changes": [change.tree() for change in amendment.changes],
        "told": list(amendment.told),
        "written": written or None,
    }


def _show(source: Source, amendment: Amendment, written: str, *, confirm: bool) -> None:
    from rich.text import Text

    shown = console()
    if not amendment.files:
        shown.print(f"nothing changes: {source.where('').rstrip('/')} is as it should be")
        return
    shown.print(Text(f"{amendment.title}: {source.where('').rstrip('/')}", style="bold"))
    for change in amendment.changes:
        mark, style = {"added": ("+", "green"), "removed": ("−", "red"), "changed": ("~", "yellow")}[change.kind]
        line = Text(f"  {mark} {change.pointer}", style=style)
        before, after = (_short(value) for value in (change.before, change.after))
        told = {"added": after, "removed": before, "changed": f"{before} → {after}"}[change.kind]
        shown.print(line.append(f"  {told}", style="default"), soft_wrap=True)
    for path, data in amendment.files.items():
        kind = "written anew" if path not in amendment.before else "changed"
        shown.print(f"  {path}: {kind}, {len(data):,} bytes", soft_wrap=True, highlight=False)
    for sentence in amendment.told:
        shown.print(Text(f"  note  {sentence}"), soft_wrap=True)
    shown.print(f"  alloyHash {amendment.short_hash}", highlight=False)
    if written:
        shown.print(f"written to {written}", soft_wrap=True, highlight=False)
    elif not confirm:
        shown.print("nothing was written; say --confirm to do it", highlight=False)


def _short(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
