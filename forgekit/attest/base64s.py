"""Standard base64 with one spelling per value, so that no bit of it can be changed unseen."""

from __future__ import annotations

import base64
import binascii

from forgekit.errors import AttestationError


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode(text: object, what: str) -> bytes:
    """Bytes from standard base64 with padding.

    Args:
        what: what it is, for messages.

    Raises:
        AttestationError: it is something else, or another spelling of the same bytes.
    """
    if not isinstance(text, str):
        raise AttestationError(f"{what} is not text")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AttestationError(f"{what} is not base64") from error
    if encode(data) != text:  # the last digit has bits that decoders ignore
        raise AttestationError(f"{what} is not the base64 of any bytes as encoders write it")
    return data
