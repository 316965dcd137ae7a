"""Signature algorithms by their JOSE names, through ``cryptography``.

ES256: ECDSA on P-256 with SHA-256; ES384: on P-384 with SHA-384; both as r and s side by side (RFC 7518, 3.4).
EdDSA: Ed25519 (RFC 8032). ML-DSA-65, ML-DSA-87: FIPS 204, where the library's OpenSSL has them.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from forgekit.errors import AttestationError

ALPHABET = re.compile(r"[A-Za-z0-9_-]*={0,2}")
SIZES = {"ES256": 32, "ES384": 48}  # bytes of r, and of s
HAVE = ("ES256", "ES384", "EdDSA", "ML-DSA-65", "ML-DSA-87")


def generate(algorithm: str) -> Any:
    """A new private key.

    Raises:
        AttestationError: the algorithm is not one of ``HAVE``, or this machine's library lacks it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        if algorithm == "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        if algorithm == "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        if algorithm in ("ML-DSA-65", "ML-DSA-87"):
            return getattr(_mldsa(), f"MLDSA{algorithm[-2:]}PrivateKey").generate()
    except UnsupportedAlgorithm as error:
        raise AttestationError(f"the cryptography library here lacks {algorithm}") from error
    raise AttestationError(f"{algorithm!r} is not signed with here", hint=", ".join(HAVE))


def algorithm_of(key: Any) -> str:
    """The JOSE name that goes with a key, private or public.

    Raises:
        AttestationError: it is of a kind that is not used here.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        found = {"secp256r1": "ES256", "secp384r1": "ES384"}.get(key.curve.name)
        if found:
            return found
    name = type(key).__name__
    for digits in ("65", "87"):
        if name.startswith(f"MLDSA{digits}"):
            return f"ML-DSA-{digits}"
    raise AttestationError(f"a key of kind {name} is not used here", hint=", ".join(HAVE))


def sign(key: Any, message: bytes) -> str:
    """The signature over ``message``, as base64url without padding."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    algorithm = algorithm_of(key)
    if algorithm in SIZES:
        digest = hashes.SHA256() if algorithm == "ES256" else hashes.SHA384()
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        width = SIZES[algorithm]
        return encode(r.to_bytes(width, "big") + s.to_bytes(width, "big"))
    return encode(key.sign(message))


def verifies(key: Any, signature: str, message: bytes) -> bool:
    """Whether the signature is this key's over ``message``.

    Raises:
        AttestationError: the signature is not base64url of the length its algorithm has.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    algorithm, data = algorithm_of(key), decode(signature)
    try:
        if algorithm in SIZES:
            width = SIZES[algorithm]
            if len(data) != 2 * width:
                raise AttestationError(f"the signature has {len(data)} bytes, and {algorithm} has {2 * width}")
            digest = hashes.SHA256() if algorithm == "ES256" else hashes.SHA384()
            joined = encode_dss_signature(int.from_bytes(data[:width], "big"), int.from_bytes(data[width:], "big"))
            key.verify(joined, message, ec.ECDSA(digest))
        else:
            key.verify(data, message)
    except InvalidSignature:
        return False
    return True


def public_text(key: Any) -> str:
    """A public key, or that of a private one, as base64url of its SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization

    public = key.public_key() if hasattr(key, "public_key") else key
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return encode(public.public_bytes(serialization.Encoding.DER, form))


def public_key(text: str) -> Any:
    """A public key from base64url of its SubjectPublicKeyInfo, or from PEM.

    Raises:
        AttestationError: it is neither.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        if "-----BEGIN" in text:
            return serialization.load_pem_public_key(text.encode())
        return serialization.load_der_public_key(decode(text))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AttestationError("the public key cannot be read", hint="base64url of its DER, or PEM") from error


def private_key(data: bytes, password: bytes | None = None) -> Any:
    """A private key from PEM.

    Raises:
        AttestationError: it is not one, or its password is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AttestationError(
            f"the private key cannot be read: {error}", hint="PEM, as `forgekit keys new` writes"
        ) from error


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    """A private key as PKCS #8 in PEM, encrypted where a password is given."""
    from cryptography.hazmat.primitives import serialization

    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    made: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return made


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Bytes from base64url, with or without padding.

    Raises:
        AttestationError: it is something else.
    """
    if not ALPHABET.fullmatch(text):  # Python would take + and / as well
        raise AttestationError(f"{text[:24]!r} is not base64url")
    try:
        return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except binascii.Error as error:
        raise AttestationError(f"{text[:24]!r} is not base64url") from error


def _mldsa() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa
    except ImportError as error:
        raise AttestationError("the cryptography library here lacks ML-DSA", hint="a newer cryptography") from error
    return mldsa
