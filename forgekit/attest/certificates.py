"""Whether a signing certificate leads to a trusted one today.

``model_signing`` judges a chain as of the day the signing certificate began, so that a certificate which has run out
still counts there. A bundle without a timestamp cannot say when it was made; here the whole path must be in force now.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from forgekit.attest.libraries import library
from forgekit.errors import AttestationError


def read_pem(data: bytes, where: str) -> list[Any]:
    """Certificates from PEM, in their order.

    Raises:
        AttestationError: there are none, or one cannot be read.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(data)
    except unreadable() as error:
        raise AttestationError(f"the certificates cannot be read: {error}", where=where, hint="PEM") from error
    return list(found)


def read_der(data: bytes) -> Any:
    """One certificate from DER.

    Raises:
        AttestationError: it is not one, or breaks RFC 5280.
    """
    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)  # how the library says that it breaks it
            made = x509.load_der_x509_certificate(data)
            made.extensions  # noqa: B018 - read when they are first asked for
    except unreadable() as error:
        raise AttestationError(f"a certificate in it cannot be read: {error}") from error
    return made


def unreadable() -> tuple[type[Exception], ...]:
    """What reading a strange certificate raises."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.utils import CryptographyDeprecationWarning

    kinds = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
    return (ValueError, CryptographyDeprecationWarning, *kinds)


def objection(chain: Sequence[Any], roots: Sequence[Any], now: datetime) -> str:
    """Why a chain does not count; empty where it does.

    Args:
        chain: the signing certificate, then the others that a bundle carries.
        roots: those that the verifier trusts.

    Raises:
        MachineError: OpenSSL's bindings are not installed here.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    crypto = library("OpenSSL.crypto")
    store = crypto.X509Store()
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(now.astimezone(UTC))
    try:
        leaf, *others = [crypto.X509.from_cryptography(certificate) for certificate in chain]
        path = crypto.X509StoreContext(store, leaf, others).get_verified_chain()
    except crypto.X509StoreContextError as error:
        return _reason(error, now)
    except crypto.Error:
        return "OpenSSL cannot read a certificate in the bundle"
    known = {step.to_cryptography().public_bytes(Encoding.DER) for step in path}
    if any(certificate.public_bytes(Encoding.DER) not in known for certificate in chain):
        return "the bundle carries a certificate that is not on the way from its signer to a trusted one"
    return ""


def out_of_force(certificate: Any, now: datetime) -> str:
    """Why a certificate cannot sign now, by its dates alone; empty where it can."""
    if now < certificate.not_valid_before_utc:
        return f"the certificate begins at {certificate.not_valid_before_utc.isoformat()}"
    if now > certificate.not_valid_after_utc:
        return f"the certificate ran out at {certificate.not_valid_after_utc.isoformat()}"
    return ""


def name_of(certificate: Any) -> str:
    """Whose a certificate is, as it says."""
    return str(certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}")


def _reason(error: Any, now: datetime) -> str:
    certificate = error.certificate.to_cryptography()
    said = out_of_force(certificate, now)
    if said:
        return f"{said} ({name_of(certificate)}), and nothing dates the signature"
    return f"{name_of(certificate)} does not lead to a trusted certificate: {str(error).lower()}"
