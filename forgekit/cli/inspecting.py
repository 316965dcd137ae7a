"""``forgekit plan``, ``forgekit hash`` and ``forgekit schema``: what can be said without evidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import CatalogPaths, Json, Offline, bytes_progress, open_catalogs, print_json
from forgekit.errors import AbsentError, DigestError
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.resolve import Plan, Step

WEIGHTS = (".safetensors", ".gguf")


def plan(
    target: Annotated[str, typer.Argument(help="A recipe or alloy: a file, a folder, hf://org/name, a catalog entry.")],
    catalog: CatalogPaths = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Resolve every stage of a recipe against its model family. Needs no torch, no GPU and no weights."""
    from forgekit.resolve import plan as resolve

    alloy = open_target(target, open_catalogs(catalog) if not Path(target).exists() else [], offline=offline).alloy()
    made = resolve(alloy)
    if as_json:
        print_json(_plan_json(made))
        raise typer.Exit(2 if made.problems else 0)
    made.require()
    for line in _plan_lines(made):
        typer.echo(line)


def hash_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of weight files.")],
    as_json: Json = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Files hashed side by side.")] = None,
) -> None:
    """SHA-256 of files; for a folder, its modelHash as well, by each convention under its own name."""
    from forgekit import digest

    files = [file for path in paths for file in _files(path)]
    with bytes_progress("hashing", sum(file.stat().st_size for file in files)) as progress:
        hashes = digest.sha256_files(files, workers=workers, progress=progress)
    rows = [{"path": str(file), "size": file.stat().st_size, "sha256": hashes[file].hex} for file in files]
    models = [_model(folder, hashes) for folder in paths if folder.is_dir()]
    if as_json:
        print_json({"schema": "forgekit.hash/1", "files": rows, "models": models})
        return
    for row in rows:
        typer.echo(f"{row['sha256']}  {row['path']}" + _alloy_note(Path(str(row["path"])), str(row["sha256"])))
    for model in models:
        typer.echo(f"{model['modelHash']}  modelHash (manifest) of {len(model['files'])} files in {model['folder']}")
        if "concat" in model:
            typer.echo(f"{model['concat']}  superseded concat hash of the same file, for comparison with old alloys")


def schema(
    domain: Annotated[list[str] | None, typer.Option(help="A domain; repeatable. Default: llm-forge.")] = None,
) -> None:
    """Print the JSON Schema of an alloy."""
    from forgekit.document_schema import json_schema
    from forgekit.domains import DOMAINS

    print_json(json_schema(tuple(DOMAINS[name] for name in domain or ["llm-forge"])))


def _plan_lines(made: Plan) -> Iterator[str]:
    family = f"{made.family.name} ({made.family.source})" if made.family else "no family needed"
    yield f"{made.name}"
    yield f"family  {family}"
    yield f"cycles  {made.cycles}"
    width = max(len(step.type) for step in made.steps)
    for number, step in enumerate(made.steps, 1):
        assert step.stage is not None
        fact = type(step.fact).__name__ if step.fact else "any model"
        how = step.stage.reproducibility or "writes nothing"
        note = "" if step.forgeable else "  known, not forgeable by this version"
        yield f"{number:>3}  {step.type:<{width}}  {fact:<16} {how:<14}{note}".rstrip()
        for text in step.notes:
            yield f"     {'':<{width}}  note: {text}"


def _plan_json(made: Plan) -> dict[str, Any]:
    return {
        "schema": "forgekit.plan/1",
        "name": made.name,
        "family": made.family.name if made.family else None,
        "cycles": made.cycles,
        "steps": [_step_json(step) for step in made.steps],
        "problems": [
            {"pointer": p.pointer, "text": p.text, "hint": p.hint, "cause": p.cause.value} for p in made.problems
        ],
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "pointer": step.pointer,
        "type": step.type,
        "family": step.family.name if step.family else None,
        "fact": type(step.fact).__name__ if step.fact else None,
        "reproducibility": step.stage.reproducibility if step.stage else None,
        "forgeable": step.forgeable,
        "notes": list(step.notes),
        "resolved": not step.problems,
    }


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in WEIGHTS)
        if not found:
            raise AbsentError("the folder holds no weight files", where=str(path), hint="name the files to hash")
        yield from found
    else:
        raise AbsentError("there is no such file or folder", where=str(path))


def _model(folder: Path, hashes: dict[Path, Any]) -> dict[str, Any]:
    from forgekit import digest

    inside = {
        file.relative_to(folder).as_posix(): value for file, value in hashes.items() if file.is_relative_to(folder)
    }
    suffix = WEIGHTS[0] if any(name.endswith(WEIGHTS[0]) for name in inside) else WEIGHTS[1]
    files = {name: value for name, value in inside.items() if name.endswith(suffix)}
    try:
        manifest = digest.model_hash((name, value.hex) for name, value in files.items())
    except DigestError as error:
        raise AbsentError(error.what, where=str(folder)) from error
    made: dict[str, Any] = {
        "folder": str(folder),
        "modelHash": str(manifest),
        "convention": "manifest",
        "files": sorted(files),
    }
    if len(files) == 1:  # for one file the old convention is the file's own hash: no second pass
        made["concat"] = str(next(iter(files.values())))
    return made


def _alloy_note(path: Path, sha256: str) -> str:
    return f"  alloyHash {sha256[:16]}" if path.name.endswith(".alloy.json") or path.name == "forge-alloy.json" else ""
