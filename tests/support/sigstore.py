"""A Sigstore instance of our own, small enough to sign without a network: an authority, a log of one entry, its keys.

What it makes is verified by the real sigstore library, which is told to trust it instead of the public instance.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785
import sigstore
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from forgekit.attest import algorithms
from forgekit.attest.dsse import IN_TOTO, encoded
from tests.support.certificates import Holder, certified

STORE = Path(sigstore.__file__).parent / "_store" / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
SCT, ISSUER, ISSUER_V2 = (ObjectIdentifier(f"1.3.6.1.4.1.{rest}") for rest in ("11129.2.4.2", "57264.1.1", "57264.1.8"))
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SINCE = {"start": "2020-01-01T00:00:00Z"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed(key: Any, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


class Instance:
    """An authority that certifies identities, and a log that says when they signed."""

    def __init__(self) -> None:
        self.authority = certified("authority", authority=True)
        self.log = algorithms.generate("ES256")
        self.transparency = algorithms.generate("ES256")

    def write_trust(self, path: Path) -> Path:
        """The configuration that makes a client trust this instance and no other."""
        certificate = self.authority.certificate.public_bytes(Encoding.DER)
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._key(self.log)],
            "ctlogs": [self._key(self.transparency)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "x", "commonName": "authority"},
                    "uri": "https://authority.example.org",
                    "certChain": {"certificates": [{"rawBytes": b64(certificate)}]},
                    "validFor": SINCE,
                }
            ],
            "timestampAuthorities": [],
        }
        tree = {"mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json", "trustedRoot": root}
        tree["signingConfig"] = json.loads((STORE / "signing_config.v0.2.json").read_bytes())
        path.write_text(json.dumps(tree))
        return path

    def bundle(self, statement: bytes, identity: str, issuer: str) -> bytes:
        """A bundle in which the identity signs a statement."""
        leaf = self._certify(identity, issuer)
        signature = signed(leaf.key, encoded(IN_TOTO, statement))
        pem = leaf.certificate.public_bytes(Encoding.PEM)
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
                    "signatures": [{"signature": b64(signature), "verifier": b64(pem)}],
                },
            }
        )
        der = leaf.certificate.public_bytes(Encoding.DER)
        tree = {
            "mediaType": BUNDLE,
            "verificationMaterial": {"certificate": {"rawBytes": b64(der)}, "tlogEntries": [self._entry(body)]},
            "dsseEnvelope": {
                "payload": b64(statement),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": b64(signature), "keyid": ""}],
            },
        }
        return json.dumps(tree, separators=(",", ":")).encode()

    def _key(self, key: Any) -> dict[str, Any]:
        public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": SINCE}
        identifier = {"keyId": b64(hashlib.sha256(spki(key)).digest())}
        return {
            "baseUrl": "https://log.example.org",
            "hashAlgorithm": "SHA2_256",
            "publicKey": public,
            "logId": identifier,
        }

    def _entry(self, body: bytes) -> dict[str, Any]:
        """The one entry of the log, with its promise, its proof and the log's checkpoint."""
        log_id = hashlib.sha256(spki(self.log)).digest()
        at = int(datetime.now(UTC).timestamp())
        promise = rfc8785.dumps({"body": b64(body), "integratedTime": at, "logID": log_id.hex(), "logIndex": 0})
        root = hashlib.sha256(b"\x00" + body).digest()
        note = f"log.example.org\n1\n{b64(root)}\n"
        checkpoint = f"{note}\n\u2014 log.example.org {b64(log_id[:4] + signed(self.log, note.encode()))}\n"
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": b64(signed(self.log, promise))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": b64(body),
        }

    def _certify(self, identity: str, issuer: str) -> Holder:
        """A certificate for an identity, with the timestamp of a transparency log in it."""
        text = issuer.encode()
        extensions: list[x509.ExtensionType] = [
            x509.SubjectAlternativeName([x509.RFC822Name(identity)]),
            x509.UnrecognizedExtension(ISSUER, text),
            x509.UnrecognizedExtension(ISSUER_V2, b"\x0c" + bytes([len(text)]) + text),
        ]
        key, serial = algorithms.generate("ES256"), x509.random_serial_number()
        first = certified("signer", self.authority, key=key, serial=serial, extensions=extensions)
        stamp = x509.UnrecognizedExtension(SCT, self._timestamp(first.certificate.tbs_certificate_bytes))
        dates = {"since": first.certificate.not_valid_before_utc, "until": first.certificate.not_valid_after_utc}
        return certified("signer", self.authority, key=key, serial=serial, extensions=[*extensions, stamp], **dates)

    def _timestamp(self, precertificate: bytes) -> bytes:
        """A list of one signed certificate timestamp, RFC 6962, 3.2 and 3.3."""
        at = int(datetime.now(UTC).timestamp()) * 1000
        issuer = hashlib.sha256(spki(self.authority.key)).digest()
        entry = issuer + len(precertificate).to_bytes(3, "big") + precertificate
        signature = signed(self.transparency, struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\x00\x00")
        log_id = hashlib.sha256(spki(self.transparency)).digest()
        row = b"\x00" + log_id + struct.pack("!QHBBH", at, 0, 4, 3, len(signature)) + signature
        rows = struct.pack("!HH", len(row) + 2, len(row)) + row
        length = bytes([len(rows)]) if len(rows) < 128 else bytes([0x81, len(rows)])
        return b"\x04" + length + rows
