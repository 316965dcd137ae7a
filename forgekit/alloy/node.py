"""The base of every document type: what was read is what will be written.

JSON names are camelCase, Python names snake_case. Unknown keys are kept, an
absent key stays absent, null stays null, 12 stays 12 and 12.0 stays 12.0,
and keys keep the order they came in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, core_schema


class Node(BaseModel):
    """One JSON object of a document; frozen."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,
        protected_namespaces=(),
    )

    _order: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def parse(cls, tree: Any) -> Self:
        """Read a JSON tree. Only camelCase names fields; anything else is kept as unknown.

        Raises:
            pydantic.ValidationError: a known field has the wrong type or an impossible value.
        """
        return cls.model_validate(tree, by_alias=True, by_name=False)

    def tree(self) -> dict[str, Any]:
        """The JSON tree: what was read, plus what was set; never a default."""
        names = {(field.alias or name): name for name, field in type(self).model_fields.items()}
        extra = self.model_extra or {}
        present = {key for key, name in names.items() if self._has(key, name, extra)} | set(extra)
        order = [key for key in self._order if key in present]
        order += [key for key in (*names, *extra) if key in present and key not in order]
        return {key: _plain(getattr(self, names[key]) if key in names else extra[key]) for key in order}

    def _has(self, key: str, name: str, extra: Mapping[str, Any]) -> bool:
        """Whether a field was read or set, and not merely an unknown key that is spelt like it in Python."""
        return key in self._order or (name in self.model_fields_set and name not in extra)

    @model_validator(mode="wrap")
    @classmethod
    def _remember_order(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        self = handler(value)
        if isinstance(value, Mapping):
            self._order = tuple(value)
        return self

    @model_serializer(mode="plain")
    def _serialize(self, _info: SerializationInfo) -> dict[str, Any]:
        return self.tree()


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.tree()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Number:
    """``Annotated[float, Number(ge=0)]``: a JSON number with bounds, kept exactly as it was read.

    pydantic's own ``float`` turns 12 into 12.0; a document that went through
    it would no longer hash to what was published.
    """

    def __init__(self, *, ge: float | None = None, le: float | None = None, gt: float | None = None) -> None:
        self.ge, self.le, self.gt = ge, le, gt

    json_type = "number"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        bounds = {"minimum": self.ge, "maximum": self.le, "exclusiveMinimum": self.gt}
        return {"type": self.json_type} | {key: bound for key, bound in bounds.items() if bound is not None}

    def _check(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PydanticCustomError("number_type", "is not a number")
        if self.ge is not None and value < self.ge:
            raise PydanticCustomError("too_small", "is less than {bound}", {"bound": self.ge})
        if self.gt is not None and value <= self.gt:
            raise PydanticCustomError("too_small", "is not greater than {bound}", {"bound": self.gt})
        if self.le is not None and value > self.le:
            raise PydanticCustomError("too_large", "is greater than {bound}", {"bound": self.le})
        return value


class Whole(Number):
    """``Annotated[int, Whole(ge=1)]``: a JSON integer; 12.0 counts as one, as in JSON Schema, and stays 12.0."""

    json_type = "integer"

    def _check(self, value: Any) -> Any:
        value = super()._check(value)
        if isinstance(value, float) and not value.is_integer():
            raise PydanticCustomError("whole_number", "is not a whole number")
        return value
