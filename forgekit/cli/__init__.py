"""The command line. Parses, calls, prints; decides nothing.

Every command takes ``--json`` for one document on standard output. Exit
codes: 0 all well, 1 something is refuted, 2 bad usage or bad input, 3 nothing
could be checked.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import typer

from forgekit import __version__
from forgekit.cli import (
    amending,
    attesting,
    auditing,
    catalogs,
    chaining,
    evaluating,
    exporting,
    forging,
    inspecting,
    model_signing,
    probing,
    proving,
    scoring,
    storing,
    verifying,
)
from forgekit.errors import ForgeError

REFUTED, BAD_INPUT, NOTHING_CHECKED, STOPPED = 1, 2, 3, 130

app = typer.Typer(
    name="forgekit",
    help="Turns every number on a model card into a test anyone can run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

F = TypeVar("F", bound=Callable[..., None])


def _stoppable(command: F) -> F:
    """Say that Ctrl-C was heard; typer would leave without a word."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            typer.echo("stopped; nothing was left half-written", err=True)
            raise typer.Exit(STOPPED) from None

    return cast("F", run)


_COMMANDS: dict[str, Callable[..., None]] = {
    "verify": verifying.verify,
    "claims": verifying.claims,
    "plan": inspecting.plan,
    "forge": forging.forge,
    "reforge": forging.reforge,
    "diff": forging.diff,
    "probe": probing.probe,
    "score": scoring.score,
    "hash": inspecting.hash_,
    "schema": inspecting.schema,
    "tiny": forging.tiny,
    "sign": attesting.sign,
    "card": amending.card,
    "backfill": amending.backfill,
    "derive": amending.derive,
    "republish": amending.republish,
    "migrate": amending.migrate,
}
_GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "catalog": (
        "Folders of pinned artifacts.",
        {"list": catalogs.list_, "pull": catalogs.pull, "pin": catalogs.pin, "refresh": catalogs.refresh},
    ),
    "keys": (
        "Keys, and registries that say whose they are.",
        {
            "new": attesting.new,
            "add": attesting.add,
            "revoke": attesting.revoke,
            "supersede": attesting.supersede,
            "list": attesting.list_,
        },
    ),
    "store": (
        "Objects by content, and the chains that rest on them.",
        {
            "put": storing.put,
            "get": storing.get,
            "ls": storing.list_,
            "unpin": storing.unpin,
            "fsck": storing.fsck,
            "gc": storing.gc,
            "audit": auditing.audit,
            "publish": chaining.publish,
            "recipes": chaining.recipes,
            "edits": chaining.edits,
            "restore": storing.restore,
        },
    ),
    "attest": (
        "Signatures, provenance and bills of materials in the field's standards.",
        {
            "model-sign": model_signing.model_sign,
            "model-verify": model_signing.model_verify,
            "provenance": exporting.provenance,
            "bom": exporting.bom,
            "evals": evaluating.evals,
            "verify": exporting.verify,
            "prove": proving.prove,
            "check-record": proving.check_record,
        },
    ),
}


def _register(into: typer.Typer, commands: dict[str, Callable[..., None]]) -> None:
    for name, command in commands.items():
        into.command(name)(_stoppable(command))


_register(app, _COMMANDS)
for _group, (_help, _commands) in _GROUPS.items():
    _below = typer.Typer(no_args_is_help=True, help=_help)
    _register(_below, _commands)
    app.add_typer(_below, name=_group)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if asked:
        typer.echo(f"forgekit {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _version_: bool = typer.Option(  # noqa: FBT001
        False,  # noqa: FBT003
        "--version",
        callback=_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; errors become messages and exit codes."""
    try:
        try:
            app(prog_name="forgekit")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before a command began, or after it ended
        typer.echo("stopped; nothing was left half-written", err=True)
        sys.exit(STOPPED)
    except ForgeError as error:
        typer.echo(f"error: {_safe(str(error))}", err=True)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _discard_output()
        sys.exit(0)
    except OSError as error:
        _discard_output()
        where = f"\n  in   {error.filename}" if error.filename else ""
        typer.echo(f"error: {_safe(error.strerror or str(error))}{_safe(where)}", err=True)
        sys.exit(BAD_INPUT)


def _discard_output() -> None:
    """Whatever is still buffered cannot be written; Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _safe(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
