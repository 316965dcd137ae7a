"""``forgekit probe``: does it run there?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import CatalogPaths, Json, Offline, console, open_catalogs, print_json
from forgekit.findings import Verdict

if TYPE_CHECKING:
    from forgekit.forms import Form
    from forgekit.probing.cells import Probed
    from forgekit.runtimes import Runtime

GIB = 1 << 30
SIGNS = {"confirmed": "✓", "refuted": "✗", "unproven": "?", "unchecked": "·"}


def probe(
    target: Annotated[str, typer.Argument(help="A folder, a GGUF file, hf://org/name, a catalog entry.")],
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", "-r", help="A runtime, or all; repeatable. Default: all.")
    ] = None,
    preflight: Annotated[bool, typer.Option("--preflight", help="Read headers only, and load nothing.")] = False,
    form: Annotated[str | None, typer.Option(help="Only forms whose name or precision holds this.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of an engine.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="What one load and its generations may take.")] = 300,
    memory: Annotated[float | None, typer.Option(min=0.1, help="GiB an engine may take.")] = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Load an artifact in the engines it should run in, have each generate, and hold it against Transformers.

    Every engine runs in a process of its own, without network, in bounded time and memory. With --preflight
    nothing is loaded: what the headers foretell of every engine is printed, also for a repository on the Hub.
    """
    from forgekit.probing.bench import Bench, Limits, matrix
    from forgekit.probing.cells import foretold

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is neither cpu nor cuda", param_hint="--device")
    runtimes = _runtimes(runtime)
    forms = _forms(target, catalog, offline=offline)
    chosen = [one for one in forms if form is None or form.lower() in f"{one.name} {_precision(one)}".lower()]
    if preflight:
        cells = foretold(chosen, runtimes)
    else:
        limits = Limits(
            seconds=seconds, memory=None if memory is None else int(memory * GIB), threads=threads, device=device
        )
        with _telling() as tell, Bench(limits, tell=tell) as bench:
            cells = matrix(chosen, runtimes, bench, beside=forms)
    if as_json:
        document = {"schema": "forgekit.probe/1", "target": target, "preflight": preflight}
        print_json(document | {"cells": [cell.tree() for cell in cells]})
    else:
        _print(target, cells, preflight=preflight)
    raise typer.Exit(_exit(cells, preflight=preflight))


def _runtimes(names: list[str] | None) -> list[Runtime]:
    from forgekit.errors import UnknownNameError
    from forgekit.runtimes import RUNTIMES, find_runtime

    if not names or "all" in names:
        return [RUNTIMES[name] for name in RUNTIMES]
    found = []
    for name in names:
        one = find_runtime(name)
        if one is None:
            raise UnknownNameError(f"no runtime is named {name!r}", where=", ".join(RUNTIMES), hint="all of them: all")
        found.append(one)
    return found


def _forms(target: str, catalog: list[str] | None, *, offline: bool) -> list[Form]:
    from forgekit.errors import AbsentError
    from forgekit.forms import folder_forms, source_forms
    from forgekit.sources import ALLOY_NAME, ALLOY_SUFFIX
    from forgekit.sources.opening import open_target

    path = Path(target)
    if (path.is_file() and not path.name.endswith((ALLOY_SUFFIX, ALLOY_NAME))) or (
        path.is_dir() and not any(path.glob(f"*{ALLOY_SUFFIX}")) and not (path / ALLOY_NAME).exists()
    ):
        found = folder_forms(path)
    else:
        found = source_forms(open_target(target, open_catalogs(catalog) if not path.exists() else [], offline=offline))
    if not found:
        raise AbsentError("there is nothing here that an engine could load", where=target)
    return found


def _precision(form: Form) -> str:
    from forgekit.errors import ForgeError

    try:
        return form.precision
    except ForgeError:
        return ""


def _exit(cells: Sequence[Probed], *, preflight: bool) -> int:
    """1 where something is refuted or foretold to fail; 3 where nothing could be said; else 0."""
    if any(cell.verdict is Verdict.REFUTED or (preflight and cell.foretold) for cell in cells):
        return 1
    if preflight:
        return 0 if any(cell.precision for cell in cells) else 3
    return 0 if any(cell.verdict is Verdict.CONFIRMED for cell in cells) else 3


def _print(target: str, cells: Sequence[Probed], *, preflight: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {"confirmed": "green", "refuted": "bold red", "unproven": "yellow", "unchecked": "dim"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    names = ("runtime", "form") if preflight else ("runtime", "form", "load", "memory", "tokens/s")
    for name in names:
        table.add_column(name, no_wrap=name != "form", justify="right" if name in names[2:] else "left")
    table.add_column("what the headers foretell" if preflight else "what was found", ratio=1)
    for cell in cells:
        worst = "refuted" if preflight and cell.foretold else cell.verdict.value
        shipped = f"{cell.form or 'weights'} {cell.precision}" if cell.precision else "-"
        measured = cell.evidence
        figures = (
            []
            if preflight
            else [
                f"{measured['loadSeconds']:.2f} s" if "loadSeconds" in measured else "",
                f"{measured['peakMemoryMiB']:,} MiB" if "peakMemoryMiB" in measured else "",
                f"{measured['tokensPerSec']:,.0f}" if "tokensPerSec" in measured else "",
            ]
        )
        said = [f"{o.effect}: {o.text} [{o.invariant}]" for o in cell.foretold] if preflight else []
        text = Text("\n".join(said) or cell.reason)
        if cell.surprise:
            text.append(f"\nsurprise: {cell.surprise}", style="magenta")
        sign = "✓" if preflight and cell.precision and not cell.foretold and worst == "unchecked" else SIGNS[worst]
        style = "green" if sign == "✓" else colours[worst]
        table.add_row(Text(f"{sign} {cell.runtime}", style=style), shipped, *figures, text)
    out = console()
    out.print(target, style="bold")
    out.print(table)
    if preflight:
        out.print(
            "✓ nothing in the headers speaks against it   ✗ foretold to fail   ? nothing shipped for it", style="dim"
        )
        out.print("Headers confirm nothing: without --preflight the engines are asked.", style="dim")


@contextmanager
def _telling() -> Iterator[Any]:
    """A line that says what is being loaded, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _what: None
        return
    with console(err=True).status("starting") as status:
        yield status.update
