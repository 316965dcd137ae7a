"""Certificates of a small authority: a root, one below it, and signers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from forgekit.attest import algorithms

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Holder:
    """A key, and the certificate for it."""

    key: Any
    certificate: x509.Certificate

    def write(self, folder: Path, name: str) -> Path:
        path = folder / f"{name}.pem"
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def certified(
    name: str,
    issuer: Holder | None = None,
    *,
    key: Any = None,
    authority: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    may_sign: bool = True,
    serial: int | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> Holder:
    """A certificate by an issuer, or by itself."""
    own = key or algorithms.generate("ES256")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usages = dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "encipher_only"), False)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(own.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(since or now - 10 * DAY)
        .not_valid_after(until or now + 10 * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=may_sign and not authority,
                key_cert_sign=authority,
                key_encipherment=not may_sign,
                crl_sign=authority,
                decipher_only=False,
                **usages,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    )
    if not authority:
        use = ExtendedKeyUsageOID.CODE_SIGNING if may_sign else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    signer = issuer.key if issuer else own
    if issuer:
        known = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(known, critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Holder(own, builder.sign(signer, hashes.SHA256()))
