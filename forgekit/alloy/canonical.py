"""RFC 8785: the one byte form of a JSON value that signatures are made over."""

from __future__ import annotations

from typing import Any

from forgekit.errors import AlloyError


def canonical(tree: Any) -> bytes:
    """Serialise by the JSON Canonicalization Scheme.

    Raises:
        AlloyError: the tree holds a value the scheme has no form for, such as an
            integer beyond 2**53 or text that is not Unicode.

    Source: RFC 8785.
    """
    import rfc8785

    try:
        return rfc8785.dumps(tree)
    except rfc8785.CanonicalizationError as error:
        raise AlloyError(f"no RFC 8785 form: {error}") from error
