"""Where a recipe's base model is: made here, in a folder, or on the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgekit import tiny
from forgekit.errors import AbsentError, SourceError, UnreachableError
from forgekit.families import FAMILIES, Family

TINY = "tiny:"
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "spk_dict.pt"]


def locate(source: Mapping[str, Any], *, beside: Path, given: Path | None = None, offline: bool = False) -> Path:
    """The folder of a base checkpoint.

    Args:
        source: the recipe's ``source``.
        beside: the recipe's folder, which relative paths start from.
        given: a folder that stands for the base, whatever the recipe names.

    Raises:
        AbsentError: there is no such base.
        UnreachableError: it is on the Hub and cannot be had from here.
        SourceError: it is not the revision the recipe names.
    """
    name = source.get("baseModel")
    if not isinstance(name, str) or not name:
        raise AbsentError("the recipe names no base", where="#/source/baseModel")
    if given is not None:
        if not given.is_dir():
            raise AbsentError("there is no such folder", where=str(given))
        return given
    if name.startswith(TINY):
        return _tiny(name, source.get("revision"))
    for place in (Path(name), beside / name):
        if place.is_dir():
            return place
    return _from_hub(name, source.get("revision"), offline=offline)


def tiny_family(name: str) -> Family:
    """The family of ``tiny:NAME`` or ``tiny:NAME@SEED``.

    Raises:
        UnknownNameError: there is none of that name.
    """
    return FAMILIES[name.removeprefix(TINY).partition("@")[0]]


def _tiny(name: str, revision: Any) -> Path:
    import platformdirs

    family = tiny_family(name)
    _, _, seed_text = name.partition("@")
    if seed_text and not seed_text.isdecimal():
        raise SourceError(f"{name!r} has no seed after its @", where="#/source/baseModel")
    seed = int(seed_text or 0)
    mark = tiny.fingerprint(family, seed=seed)
    if revision not in (None, mark.hex):
        raise SourceError(
            f"the tiny checkpoint {name!r} is {mark.short} and the recipe names {str(revision)[:16]}",
            where="#/source/revision",
            hint="it was made by another version of forgekit",
        )
    folder = Path(platformdirs.user_cache_dir("forgekit")) / "tiny" / mark.hex
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        import tempfile

        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            tiny.write(family, aside, seed=seed)
            try:
                aside.rename(folder)
            except OSError:
                if not (folder / "config.json").is_file():  # else another process was first
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _from_hub(name: str, revision: Any, *, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision if isinstance(revision, str) else None,
            allow_patterns=WANTED,
            local_files_only=offline,
        )
    except HFValidationError as error:
        raise AbsentError(
            f"{name!r} is no folder and no name a Hub repository can have", where="#/source/baseModel"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnreachableError(
            f"the base {name!r} cannot be had: {first}",
            where="#/source/baseModel",
            hint="give its folder with --base",
        ) from error
    return Path(found)
