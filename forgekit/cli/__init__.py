"""The command line. Parses, calls, prints; decides nothing.

Every command takes ``--json`` for one document on standard output. Exit
codes: 0 all well, 1 something is refuted, 2 bad usage or bad input, 3 nothing
could be checked.
"""

from __future__ import annotations

import os
import sys

import typer

from forgekit import __version__
from forgekit.cli import catalogs, inspecting, scoring, verifying
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
app.command()(verifying.verify)
app.command()(verifying.claims)
app.command()(inspecting.plan)
app.command()(scoring.score)
app.command("hash")(inspecting.hash_)
app.command()(inspecting.schema)
app.add_typer(catalogs.app, name="catalog")


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
        app()
    except ForgeError as error:
        typer.echo(f"error: {_safe(str(error))}", err=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was left half-written", err=True)
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _safe(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
