"""The alloy: bytes in, document out, and its hash taken of the bytes as received."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit import digest
from forgekit.alloy import reading
from forgekit.alloy.pointer import find
from forgekit.errors import AbsentError, AlloyError, SourceError


@dataclass(frozen=True, slots=True)
class Alloy:
    """A document as it was published.

    Attributes:
        data: the bytes as received; every hash of the document is of these.
        tree: the JSON in them.
        where: file or URL, for messages.
    """

    data: bytes
    tree: dict[str, Any]
    where: str

    @property
    def hash(self) -> digest.Digest:
        """alloyHash: SHA-256 of the file's bytes; ``.short`` is the form in verify URLs."""
        return digest.sha256(self.data)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains the document names; documents older than the field are of ``llm-forge``."""
        named = self.tree.get("domains")
        if named is None:
            return ("llm-forge",)
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise AlloyError("domains is not a list of names", where=f"{self.where}#/domains")
        return tuple(named)

    def at(self, pointer: str, default: Any = None) -> Any:
        return find(self.tree, pointer, default)


def read(data: bytes, *, where: str = "<bytes>") -> Alloy:
    """Read an alloy from its bytes.

    Raises:
        AlloyError: the bytes are not a JSON object an alloy could be.
    """
    return Alloy(data=data, tree=reading.parse(data, where=where), where=where)


def read_file(path: Path) -> Alloy:
    """Read an alloy from a file; a file too large to be one is not loaded.

    Raises:
        AbsentError: there is no such file.
        SourceError: the file cannot be read.
        AlloyError: the file is not an alloy.
    """
    try:
        size = path.stat().st_size
        if size > reading.MAX_BYTES:
            raise AlloyError(
                f"the file is {size / 2**20:.0f} MiB; an alloy has at most {reading.MAX_BYTES >> 20} MiB",
                where=str(path),
                hint="name the alloy (*.alloy.json), not a weight file",
            )
        return read(path.read_bytes(), where=str(path))
    except FileNotFoundError as error:
        raise AbsentError("there is no such file", where=str(path)) from error
    except OSError as error:
        raise SourceError(f"cannot read the file: {error.strerror}", where=str(path)) from error


def write(tree: dict[str, Any]) -> bytes:
    """The bytes of a document: what published alloys are written as."""
    return reading.render(tree)
