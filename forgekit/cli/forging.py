"""``forgekit forge`` and its kin: make things, and say where two of them differ."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import CatalogPaths, Json, Offline, console, open_catalogs, print_json
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.alloy import Alloy
    from forgekit.sources import Source

Base = Annotated[Path | None, typer.Option(help="A folder that stands for the base the recipe names.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads for arithmetic; part of what makes its bits.")]


def forge(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or an alloy to forge again from what was authored in it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the artifact; new, or of the same forge before.")],
    base: Base = None,
    device: Device = "cpu",
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Do not prove surgery; the alloy says so.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every stage's output beside the artifact.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="Keep every stage's output in this store, as a chain.")
    ] = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a recipe and write the artifact with its alloy. After an interruption, the same command goes on."""
    from forgekit import alloy
    from forgekit.forge.executor import Settings
    from forgekit.forge.executor import forge as run

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is neither cpu nor cuda", param_hint="--device")
    with _progress() as (tell, progress):
        settings = Settings(
            base=base,
            device=device,
            threads=threads,
            seed=seed,
            prove=not no_proof,
            offline=offline,
            keep=keep,
            store=store or os.environ.get("FORGEKIT_STORE", ""),
            tell=tell,
            progress=progress,
        )
        made = run(alloy.read_file(recipe), out, settings)
    if as_json:
        document = {
            "schema": "forgekit.forge/1",
            "folder": str(made.folder),
            "alloy": str(made.alloy),
            "modelHash": str(made.model_hash),
            "chain": str(made.chain) if made.chain else None,
            "resumed": made.resumed,
            "stages": list(made.stages),
        }
        print_json(document)
        return
    for row in made.stages:
        typer.echo(f"{row['stage']:>3}  {row['type']:<26} {str(row['outputHash'])[7:23]}  {_said(row)}")
    if made.resumed:
        typer.echo(f"{made.resumed} of {len(made.stages)} stages had run before and were used again")
    typer.echo(f"{made.model_hash}  modelHash")
    typer.echo(f"artifact: {made.folder}")
    typer.echo(f"alloy:    {made.alloy}")
    if made.chain:
        typer.echo(f"chain:    {made.chain}")


def _said(row: Any) -> str:
    proof = row.get("proof")
    if isinstance(proof, dict) and "logits" in proof:
        parts = (f"{name} {proof[name]['verdict']}" for name in ("loads", "logits", "bytes"))
        return "proof: " + ", ".join(parts)
    if isinstance(row.get("reload"), dict):
        return f"reload: {row['reload']['verdict']}"
    return str(row.get("reason") or "")


@contextmanager
def _progress() -> Iterator[tuple[Any, Any]]:
    """A line per stage on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield (lambda *_: None), (lambda *_: None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(err=True), transient=True) as bar:
        task = bar.add_task("planning", total=None)

        def tell(number: int, count: int, kind: str, what: str) -> None:
            bar.update(
                task, description=f"{f'{number}/{count} ' if count else ''}{kind}: {what}", completed=0, total=None
            )

        yield tell, lambda done, total: bar.update(task, completed=done, total=total or None)


def tiny(
    family: Annotated[str | None, typer.Argument(help="A family; without one, they are listed.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write a family's tiny random checkpoint: the same bytes on every machine."""
    from forgekit import tiny as made
    from forgekit.errors import CheckpointError
    from forgekit.families import FAMILIES

    if family is None:
        for name in made.families():
            typer.echo(f"{name:<16} {made.fingerprint(FAMILIES[name], seed=seed)}")
        return
    found = FAMILIES[family]
    made.shapes(found)
    folder = out or Path(f"{family}-tiny")
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError("the folder is not empty", where=str(folder), hint="name a new one with --out")
    made.write(found, folder, seed=seed)
    typer.echo(f"{made.fingerprint(found, seed=seed)}  {folder}")


def diff(
    a: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    b: Annotated[Path, typer.Argument(help="Folder of another.")],
    as_json: Json = False,
    limit: Annotated[int, typer.Option(min=1, help="Differences to print; --json has all.")] = 20,
) -> None:
    """Compare two checkpoints: keys, dtypes, shapes, then values, each difference down to tensor, file and byte."""
    from dataclasses import asdict

    from forgekit.checkpoint.difference import compare
    from forgekit.checkpoint.opening import open_folder
    from forgekit.cli.shared import count_progress

    with count_progress("comparing") as progress:
        found = compare(open_folder(a), open_folder(b), progress=progress)
    if as_json:
        document = {
            "schema": "forgekit.diff/1",
            "a": str(a),
            "b": str(b),
            "tensors": found.tensors,
            "layout": found.layout,
            "differences": [asdict(difference) for difference in found.differences],
        }
        print_json(document)
    else:
        for line in [*found.layout, *map(str, found.differences[:limit])]:
            typer.echo(line)
        if len(found.differences) > limit:
            typer.echo(f"and {len(found.differences) - limit} more tensors")
        same = (
            "the same tensors" if found.same_tensors else f"{len(found.differences)} of {found.tensors} tensors differ"
        )
        typer.echo(f"{same} ({found.bytes:,} bytes compared)")
    raise typer.Exit(0 if found.same_tensors else 1)


def reforge(
    target: Annotated[str, typer.Argument(help="A forged artifact: a folder, hf://org/name, a catalog entry.")],
    base: Base = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Run nothing: recompute this many tensors from ranged reads, and compare.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--structure", help="Run nothing: recompute every tensor from ranged reads, and compare.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws the sample; best chosen after publication.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the new artifact here.")] = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run an artifact's recipe again and grade the result; or recompute its tensors without running it."""
    source = open_target(target, open_catalogs(catalog) if not Path(target).exists() else [], offline=offline)
    if sample is not None or everything:
        _structure(source, base, sample, seed, offline=offline, as_json=as_json)
    else:
        _rerun(source, base, device, out, offline=offline, as_json=as_json)


def _structure(
    source: Source, base: Path | None, sample: int | None, seed: int, *, offline: bool, as_json: bool
) -> None:
    from dataclasses import asdict

    from forgekit.cli.shared import count_progress
    from forgekit.families import FAMILIES
    from forgekit.forge.lineage import prove_structure

    alloy = source.alloy()
    family = FAMILIES[str(alloy.at("/source/architecture"))]
    parent = _base_source(alloy, source, base, offline=offline)
    with count_progress("recomputing") as progress:
        found = prove_structure(parent, source, family, alloy.tree, sample=sample, seed=seed, progress=progress)
    if as_json:
        print_json({"schema": "forgekit.structure/1", "base": parent.name, "target": source.name, **asdict(found)})
    else:
        for line in found.differences[:20]:
            typer.echo(f"refuted    {line}")
        typer.echo(f"{'refuted' if found.differences else 'confirmed'}: {found}")
    raise typer.Exit(1 if found.differences else 0)


def _base_source(alloy: Alloy, source: Source, base: Path | None, *, offline: bool) -> Source:
    """The base as something to read ranges of: a folder where it is one, else its Hub repository."""
    from forgekit.forge.base import TINY, locate
    from forgekit.forge.lineage import FolderCheckpointSource
    from forgekit.sources.hub import HubSource

    told = alloy.at("/source")
    told = told if isinstance(told, dict) else {}
    name = str(told.get("baseModel") or "")
    root = getattr(source, "root", Path())
    local = base or (Path(name) if Path(name).is_dir() else None) or ((root / name) if (root / name).is_dir() else None)
    if local is not None or name.startswith(TINY):
        return FolderCheckpointSource(locate(told, beside=root, given=local, offline=True))
    revision = told.get("revision")
    return HubSource(name.removeprefix("hf://"), revision if isinstance(revision, str) else None, offline=offline)


def _rerun(source: Source, base: Path | None, device: str, out: Path | None, *, offline: bool, as_json: bool) -> None:
    import tempfile
    from dataclasses import asdict

    from forgekit.forge.executor import Settings
    from forgekit.forge.reforge import again, fetch_inputs

    alloy = source.alloy()
    with tempfile.TemporaryDirectory(prefix="forgekit-") as scratch, _progress() as (tell, progress):
        beside = fetch_inputs(alloy, source, Path(scratch))
        settings = Settings(base=base, device=device, offline=offline, tell=tell, progress=progress)
        found, _ = again(alloy, source, beside=beside, folder=out or Path(scratch), settings=settings)
    if as_json:
        print_json({"schema": "forgekit.reforge/1", "target": source.name, "holds": found.holds, **asdict(found)})
    else:
        typer.echo(f"{found.grade}: {found.reason}")
        typer.echo(f"  published  {found.published}")
        typer.echo(f"  observed   {found.observed}")
        if found.stage:
            typer.echo(f"  stage      {found.stage}")
        if found.tensor:
            typer.echo(f"  tensor     {found.tensor}")
    raise typer.Exit({True: 0, False: 1, None: 3}[found.holds])
