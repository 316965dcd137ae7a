"""A Sigstore instance of our own, small enough to sign without a network: an authority, a log of one entry, its keys.

What it makes is verified by the real sigstore library, which is told to trust it instead of the public instance.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def token(identity: str, issuer: str) -> str:
    """An OpenID Connect token; who trusts it does so unread, as clients of Sigstore do."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"aud": "sigstore", "sub": identity, "iss": issuer, "iat": now, "exp": now + 600}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts) + ".AAAA"


def _body(statement: bytes, signature: str, verifier: str) -> bytes:
    """The body of a log entry of an envelope: kind dsse, version 0.0.1."""
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
        "signatures": [{"signature": signature, "verifier": verifier}],
    }
    return rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


def _handler(instance: Instance) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, {"authorization_endpoint": "https://x", "token_endpoint": "https://x"})

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/v2/signingCert":
                self._send(201, instance.certificate_for(sent, self.headers["Authorization"].removeprefix("Bearer ")))
            elif self.path == "/api/v1/log/entries":
                self._send(201, instance.logged(sent))
            else:
                self._send(404, {})

        def _send(self, status: int, tree: dict[str, Any]) -> None:
            data = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


class Instance:
    """An authority that certifies identities, and a log that says when they signed."""

    def __init__(self) -> None:
        self.authority = certified("authority", authority=True)
        self.log = algorithms.generate("ES256")
        self.transparency = algorithms.generate("ES256")

    def write_trust(self, path: Path, address: str | None = None) -> Path:
        """The configuration that makes a client trust this instance and no other, and sign at ``address``."""
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
        for name in ("caUrls", "oidcUrls", "rekorTlogUrls"):
            if address is not None:
                tree["signingConfig"][name][0]["url"] = address
        tree["signingConfig"]["tsaUrls"] = []
        path.write_text(json.dumps(tree))
        return path

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The authority, the log and a login page on a free port, until the block ends; gives their address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def certificate_for(self, request: dict[str, Any], token: str) -> dict[str, Any]:
        """What the authority answers: a certificate for the key of a request and the identity of a token."""
        wanted = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        leaf = self._certify(claims["sub"], claims["iss"], wanted)
        chain = [one.certificate.public_bytes(Encoding.PEM).decode() for one in (leaf, self.authority)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def logged(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """What the log answers: the entry of an envelope."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        body = _body(base64.b64decode(envelope["payload"]), envelope["signatures"][0]["sig"], content["verifiers"][0])
        entry = self._entry(body)
        proof = entry["inclusionProof"]
        row = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
            "logIndex": 0,
            "verification": {
                "inclusionProof": {
                    "logIndex": 0,
                    "rootHash": base64.b64decode(proof["rootHash"]).hex(),
                    "treeSize": 1,
                    "hashes": [],
                    "checkpoint": proof["checkpoint"]["envelope"],
                },
                "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
            },
        }
        return {"0" * 64: row}

    def bundle(self, statement: bytes, identity: str, issuer: str) -> bytes:
        """A bundle in which the identity signs a statement."""
        leaf = self._certify(identity, issuer)
        signature = signed(leaf.key, encoded(IN_TOTO, statement))
        body = _body(statement, b64(signature), b64(leaf.certificate.public_bytes(Encoding.PEM)))
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

    def _certify(self, identity: str, issuer: str, holder: Any = None) -> Holder:
        """A certificate for an identity, with the timestamp of a transparency log in it."""
        text = issuer.encode()
        extensions: list[x509.ExtensionType] = [
            x509.SubjectAlternativeName([x509.RFC822Name(identity)]),
            x509.UnrecognizedExtension(ISSUER, text),
            x509.UnrecognizedExtension(ISSUER_V2, b"\x0c" + bytes([len(text)]) + text),
        ]
        key, serial = holder or algorithms.generate("ES256"), x509.random_serial_number()
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
