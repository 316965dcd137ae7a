"""What several commands need: options, catalogs, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.errors import SamplesError, SourceError
from forgekit.sources.catalog import Catalog
from forgekit.sources.opening import CATALOG_VARIABLE, default_catalogs

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network.")]
CatalogPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--catalog", metavar="PATH", help=f"A catalog; repeatable. Default: ${CATALOG_VARIABLE}, else _cache/."
    ),
]
DatasetFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset-file", metavar="[NAME=]PATH", help="A benchmark's data set, where it is not to be looked for."
    ),
]


def open_catalogs(paths: list[str] | None) -> list[Catalog]:
    """The catalogs asked for, else the default ones.

    Raises:
        SourceError: a path that was asked for is not a folder.
    """
    if not paths:
        return default_catalogs()
    for path in paths:
        if not Path(path).is_dir():
            raise SourceError("there is no such catalog", where=path)
    return [Catalog(Path(path)) for path in paths]


def dataset_files(values: list[str] | None) -> dict[str, Path]:
    """Data sets by benchmark name; a bare path counts for every benchmark, ``humaneval=`` for all that begin so.

    Raises:
        SamplesError: a file does not exist, or no benchmark has that name.
    """
    from forgekit.benchmarks import BENCHMARKS

    found: dict[str, Path] = {}
    for value in values or ():
        name, equals, path = value.partition("=")
        if not equals:
            name, path = "", value
        if not Path(path).is_file():
            raise SamplesError("there is no such data set", where=path)
        named = [benchmark for benchmark in BENCHMARKS if benchmark.startswith(name)]
        if not named:
            raise SamplesError(f"no benchmark is named {name!r}", where=", ".join(BENCHMARKS))
        found.update(dict.fromkeys(named, Path(path)))
    return found


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True, default=str) + "\n")


def console(*, err: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else 160
    return Console(stderr=err, width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def bytes_progress(label: str, total: int) -> Iterator[Any]:
    """A bar over bytes on a terminal, nothing in a pipe; gives the function to call with bytes done."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(err=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def count_progress(label: str) -> Iterator[Any]:
    """A bar over things on a terminal, nothing in a pipe; gives a function of (done, total)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console(err=True), transient=True
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
