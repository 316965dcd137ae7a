"""Parts looked up by exact name: one file per part, or one entry point.

The part of kind ``family`` named ``qwen3_moe`` is the constant ``FAMILY`` in
``forgekit/families/qwen3_moe.py``, or the object an installed package
declares as ``qwen3_moe`` in the entry point group ``forgekit.families``.
The file is the registration: nothing runs at import, and only the parts
that are asked for are loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from forgekit.errors import PartError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def installed(group: str) -> Iterable[EntryPoint]:
    """What installed packages declare in an entry point group."""
    from importlib.metadata import entry_points

    return entry_points(group=group)


class Part(Protocol):
    """Anything that knows its own name."""

    @property
    def name(self) -> str: ...


P = TypeVar("P", bound=Part)


class Registry(Mapping[str, P]):
    """The parts of one kind, by name.

    Args:
        kind: what one part is called; its upper case is the constant looked for.
        package: dotted name of the package whose modules are the parts, and of the entry point group.
        of: class every part must be an instance of.
        hyphens: names are written with hyphens where files have underscores.
    """

    def __init__(self, kind: str, package: str, of: type[P], *, hyphens: bool = False) -> None:
        self.kind = kind
        self.package = package
        self.of = of
        self.hyphens = hyphens

    def __getitem__(self, name: str) -> P:
        """Load the part called ``name``.

        Raises:
            UnknownNameError: no file and no entry point has that name.
            PartError: the file or entry point holds something else.
        """
        if name in self._loaded:
            return self._loaded[name]
        value = self._file(name)
        if value:
            module, _, constant = value.partition(":")
            return self._kept(name, value, getattr(importlib.import_module(module), constant))
        point = self._points.get(name)
        if point is None:
            import difflib

            near = difflib.get_close_matches(name, self._points, n=1)
            raise UnknownNameError(
                f"no {self.kind} is named {name!r}",
                where=f"{self.package}: {', '.join(self) or 'empty'}",
                hint=f"{near[0]!r}" if near else f"add {self.file_for(name)}",
            )
        return self._kept(name, point.value, point.load())

    def _file(self, name: str) -> str:
        """The constant in the file of that name, found without asking every installed package; empty where none is."""
        stem = name.replace("-", "_") if self.hyphens else name
        if not stem.isidentifier() or stem.startswith("_") or (self.hyphens and "_" in name):
            return ""
        module = f"{self.package}.{stem}"
        return f"{module}:{self.kind.upper()}" if importlib.util.find_spec(module) else ""

    def _kept(self, name: str, value: str, part: object) -> P:
        if not isinstance(part, self.of) or part.name != name:
            raise PartError(f"{value} is not a {self.of.__name__} named {name!r}", where=f"got {part!r}")
        self._loaded[name] = part
        return part

    def __contains__(self, name: object) -> bool:
        return name in self._points

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._points))

    def __len__(self) -> int:
        return len(self._points)

    def file_for(self, name: str) -> str:
        """Where the file of a part of this name goes."""
        return f"{self.package.replace('.', '/')}/{name.replace('-', '_')}.py"

    @cached_property
    def _loaded(self) -> dict[str, P]:
        return {}

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        from importlib.metadata import EntryPoint  # slow, and an engine's process lists no parts

        package = importlib.import_module(self.package)
        points: dict[str, EntryPoint] = {}
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.startswith("_"):
                continue
            name = module.name.replace("_", "-") if self.hyphens else module.name
            points[name] = EntryPoint(name, f"{self.package}.{module.name}:{self.kind.upper()}", self.package)
        for point in installed(self.package):
            taken = points.get(point.name)
            if taken is not None and taken.value != point.value:
                raise PartError(
                    f"two {self.package} entries are named {point.name!r}",
                    where=f"{taken.value} and {point.value}",
                    hint="rename the newer one: published alloys keep the older",
                )
            points[point.name] = point
        return points
