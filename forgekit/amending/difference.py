"""What differs between two documents, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forgekit.alloy.pointer import join

ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One field.

    Attributes:
        pointer: where it stands, as RFC 6901 writes it.
        before, after: its value; ``ABSENT`` where it is not there.
    """

    pointer: str
    before: Any
    after: Any

    @property
    def kind(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return "added" if self.before is ABSENT else "removed" if self.after is ABSENT else "changed"

    def tree(self) -> dict[str, Any]:
        told = {"before": self.before, "after": self.after}
        return {"pointer": self.pointer, "kind": self.kind} | {k: v for k, v in told.items() if v is not ABSENT}


def difference(before: Any, after: Any, pointer: str = "") -> list[Change]:
    """Every field that was added, removed or changed, in the order of the second document; removed ones last."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [
            change for key in after for change in difference(before.get(key, ABSENT), after[key], join(pointer, key))
        ]
        return found + [Change(join(pointer, key), before[key], ABSENT) for key in before if key not in after]
    if isinstance(before, list) and isinstance(after, list):
        longest = max(len(before), len(after))
        return [
            change
            for index in range(longest)
            for change in difference(_at(before, index), _at(after, index), join(pointer, index))
        ]
    same = type(before) is type(after) and before == after
    return [] if same else [Change(pointer, before, after)]


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else ABSENT
