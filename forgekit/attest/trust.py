"""Who signs a model, whom a verifier believes, and how either is said to ``model_signing``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forgekit.attest import algorithms, certificates
from forgekit.attest.libraries import library
from forgekit.errors import AttestationError, ForgeError, UnreachableError

CURVES = {"secp256r1", "secp384r1", "secp521r1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySigner:
    """A private key on P-256, P-384 or P-521, as ``attest.algorithms`` reads it."""

    key: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateSigner:
    """A private key, the certificate for it, and those between it and a root; as PEM files."""

    key: Any
    certificate: Path
    chain: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class KeylessSigner:
    """An identity that Sigstore certifies for some minutes; needs the network, and somebody to log in.

    Attributes:
        token: an OpenID Connect token; taken from the surroundings, or asked for, where None.
        trust_config: Sigstore instance to use; the public one where None.
    """

    token: str | None = None
    trust_config: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ByKey:
    """Trust in one public key."""

    key: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ByCertificate:
    """Trust in certificates, in PEM files, and in whom they certify.

    Attributes:
        now: when the path must be in force; the machine's time where None.
    """

    roots: tuple[Path, ...]
    now: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ByIdentity:
    """Trust in an identity that Sigstore's log says has signed."""

    identity: str
    issuer: str
    trust_config: Path | None = None


Signer = KeySigner | CertificateSigner | KeylessSigner
Trust = ByKey | ByCertificate | ByIdentity
MODES: Mapping[type, str] = {ByKey: "key", ByCertificate: "certificate", ByIdentity: "keyless"}


def who(chain: Sequence[Any], trust: Trust) -> tuple[str, str]:
    """Who signed, in words; and why that does not count, empty where it does."""
    if isinstance(trust, ByKey):
        return f"the key {algorithms.public_text(trust.key)[-16:]}", ""
    if isinstance(trust, ByIdentity):
        return f"{trust.identity}, certified by {trust.issuer}", ""
    roots = [one for path in trust.roots for one in certificates.read_pem(_bytes(path), str(path))]
    reason = certificates.objection(chain, roots, trust.now or datetime.now(UTC))
    return f"{certificates.name_of(chain[0])}, by its certificate", reason


@contextlib.contextmanager
def configured(signer: Signer, now: datetime) -> Iterator[Any]:
    """The library's signing configuration; key material is handed over in memory."""
    config = library("model_signing.signing").Config()
    if isinstance(signer, KeylessSigner):
        with told("sigstore"):
            config.use_sigstore_signer(
                use_ambient_credentials=signer.token is None,
                identity_token=signer.token,
                trust_config=signer.trust_config,
            )
        yield config
        return
    _usable(signer.key)
    with _in_memory(algorithms.private_pem(signer.key)) as path:
        if isinstance(signer, KeySigner):
            config.use_elliptic_key_signer(private_key=path)
        else:
            held = certificates.read_pem(_bytes(signer.certificate), str(signer.certificate))[0]
            if reason := certificates.out_of_force(held, now):
                raise AttestationError(reason, where=str(signer.certificate), hint="a certificate that is in force")
            if held.public_key() != signer.key.public_key():
                raise AttestationError("the certificate is for another key", where=str(signer.certificate))
            for link in signer.chain:
                certificates.read_pem(_bytes(link), str(link))
            config.use_certificate_signer(
                private_key=path, signing_certificate=signer.certificate, certificate_chain=signer.chain
            )
        yield config


@contextlib.contextmanager
def verifying(trust: Trust) -> Iterator[Any]:
    """The library's verifying configuration.

    Raises:
        AttestationError: what is trusted cannot be read.
    """
    config = library("model_signing.verifying").Config()
    if isinstance(trust, ByKey):
        _usable(trust.key)
        with _in_memory(_public_pem(trust.key)) as path:
            config.use_elliptic_key_verifier(public_key=path)
    elif isinstance(trust, ByCertificate):
        if not trust.roots:
            raise AttestationError("no trusted certificate is given", hint="--certificate-chain ROOT.pem")
        for root in trust.roots:
            certificates.read_pem(_bytes(root), str(root))
        config.use_certificate_verifier(certificate_chain=trust.roots)
    else:
        with told("sigstore"):
            config.use_sigstore_verifier(
                identity=trust.identity, oidc_issuer=trust.issuer, trust_config=trust.trust_config
            )
    yield config


def _usable(key: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    kinds = ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey
    if not isinstance(key, kinds) or key.curve.name not in CURVES:
        raise AttestationError(
            "OpenSSF Model Signing takes keys on P-256, P-384 and P-521 only",
            hint="forgekit keys new --algorithm ES256 --out key.pem",
        )


def _public_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    made: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[Path]:
    """A path that the library can read ``data`` from, without a file: a private key never reaches a disk."""
    handle = os.memfd_create("forgekit-key")
    try:
        os.write(handle, data)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


# --- the library's errors --------------------------------------------------


def failure(verify: Callable[[], object]) -> str:
    """Why the library says no; empty where it says yes."""
    from cryptography.exceptions import InvalidSignature

    crypto = library("OpenSSL.crypto")
    sigstore = library("sigstore.errors")
    try:
        with contextlib.redirect_stdout(None):  # it prints there, and our output is JSON
            verify()
    except InvalidSignature:
        return "the signature is not this key's over these files"
    except crypto.X509StoreContextError as error:
        return f"the signer's certificate does not lead to a trusted one: {str(error).lower()}"
    except crypto.Error:  # its one argument is OpenSSL's queue, with what went wrong before as well
        return "OpenSSL cannot read a certificate in the bundle"
    except sigstore.Error as error:
        return f"Sigstore refuses it: {_line(error)}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # what it raises for odd bundles
        return f"the library refuses it: {_line(error)}"
    return ""


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
    """The library's many errors as ours."""
    sigstore, oidc = library("sigstore.errors"), library("sigstore.oidc")
    away = (library("requests.exceptions").RequestException, library("tuf.api.exceptions").DownloadError)
    refused = (oidc.IdentityError, oidc.ExpiredIdentity, ValueError, KeyError, TypeError, OSError)
    try:
        yield
    except (*away, sigstore.NetworkError, sigstore.TUFError, oidc.IssuerError) as error:
        raise _unreachable(error, where) from error
    except (*refused, sigstore.Error) as error:
        raise AttestationError(f"the library refuses: {_line(error)}", where=where) from error
    except ForgeError:
        raise
    except Exception as error:
        if type(error).__module__.startswith("sigstore."):  # its clients of the authority and the log have their own
            raise _unreachable(error, where) from error
        raise


def _unreachable(error: Exception, where: str) -> UnreachableError:
    what = f"Sigstore cannot be reached, or gives no answer: {_line(error)}"
    return UnreachableError(what, where=where, hint="key and certificate modes need no network")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
