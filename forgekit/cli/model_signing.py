"""``forgekit attest model-sign`` and ``model-verify``: OpenSSF Model Signing bundles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.attesting import PASSWORD
from forgekit.cli.shared import Json, Offline, bytes_progress, print_json
from forgekit.errors import AttestationError, MachineError, SourceError, UnreachableError
from forgekit.findings import Verdict

if TYPE_CHECKING:
    from forgekit.attest.checked_files import FileFinding
    from forgekit.attest.openssf import Signed
    from forgekit.attest.trust import Signer, Trust
    from forgekit.sources.hub import HubSource

REFUTED, NOTHING_CHECKED = 1, 3
SCHEMA = "forgekit.model-signature/1"


def model_sign(
    folder: Annotated[Path, typer.Argument(help="Folder of the model; a snapshot in the Hub's cache will do.")],
    key: Annotated[Path | None, typer.Option("--key", help="Private key in PEM, on P-256, P-384 or P-521.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate for the key, in PEM; the bundle then carries it.")
    ] = None,
    chain: Annotated[
        list[Path] | None, typer.Option("--chain", help="Certificates between it and a root; repeatable.")
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by an identity through Sigstore; needs the network.")
    ] = False,
    identity_token: Annotated[str | None, typer.Option(help="OpenID Connect token for --keyless.")] = None,
    trust_config: Annotated[Path | None, typer.Option(help="Sigstore instance for --keyless.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle; model.sig in the folder.")] = None,
    as_json: Json = False,
) -> None:
    """Sign the path and SHA-256 of every file of a model, as an OpenSSF Model Signing bundle."""
    from forgekit.attest import openssf
    from forgekit.attest.trust import KeylessSigner

    if keyless == (key is not None) or (certificate is not None and key is None) or (chain and certificate is None):
        raise typer.BadParameter("give --key, or --key with --certificate and --chain, or --keyless")
    signer: Signer = (
        KeylessSigner(token=identity_token, trust_config=trust_config)
        if key is None
        else _signer(key, certificate, tuple(chain or ()))
    )
    bundle = out or folder / openssf.NAME
    with bytes_progress("hashing", _size(folder)) as progress:
        count = openssf.sign(folder, bundle, signer, progress=progress)
    if as_json:
        print_json({"schema": "forgekit.model-signed/1", "folder": str(folder), "bundle": str(bundle), "files": count})
        return
    typer.echo(f"{bundle} signs {count} files of {folder}")


def model_verify(
    target: Annotated[
        str, typer.Argument(help="A folder, or a repository on the Hub: org/name or hf://org/name[@rev].")
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle; model.sig of the target where none is given.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Public key: PEM, or base64url of its DER.")] = None,
    certificate_chain: Annotated[
        list[Path] | None, typer.Option(help="Certificates that are trusted, in PEM; repeatable.")
    ] = None,
    identity: Annotated[str | None, typer.Option(help="Who must have signed, through Sigstore.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Who must say that it is they: an OpenID Connect issuer.")] = None,
    trust_config: Annotated[Path | None, typer.Option(help="Sigstore instance for --identity.")] = None,
    ignore_unsigned: Annotated[
        bool, typer.Option("--ignore-unsigned", help="Files that nobody signed are named, and refute nothing.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Hold a model to its OpenSSF Model Signing bundle; on the Hub by its listing, without the weights."""
    from forgekit.attest import openssf

    trust = _trust(key, certificate_chain, identity, issuer, trust_config)
    unsigned = Verdict.UNCHECKED if ignore_unsigned else Verdict.REFUTED
    try:
        place = _place(target, bundle, offline=offline)
        data = _bundle(place)
        read = openssf.read(data, trust)
        rows = [] if isinstance(read, openssf.Refusal) else _findings(place, data, read, trust, unsigned)
    except (UnreachableError, MachineError) as error:
        typer.echo(f"nothing could be checked: {error}", err=True)
        raise typer.Exit(NOTHING_CHECKED) from error
    refusal = read.reason if isinstance(read, openssf.Refusal) else ""
    signer = "" if isinstance(read, openssf.Refusal) else read.signer
    _print(place, rows, refusal=refusal, signer=signer, as_json=as_json)
    raise typer.Exit(exit_code([row.verdict for row in rows], refuted=bool(refusal)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A model and its bundle: in a folder, or on the Hub."""

    target: str
    folder: Path | None
    hub: HubSource | None
    bundle: Path | None


def exit_code(verdicts: Sequence[Verdict], *, refuted: bool = False) -> int:
    """0 where something is confirmed and nothing refuted, 1 where something is refuted, 3 where neither."""
    if refuted or Verdict.REFUTED in verdicts:
        return REFUTED
    return 0 if Verdict.CONFIRMED in verdicts else NOTHING_CHECKED


def print_files(rows: Sequence[FileFinding]) -> None:
    """One line per file, worst news first."""
    from forgekit.report import clean

    worst = [Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED, Verdict.CONFIRMED]
    for row in sorted(rows, key=lambda row: (worst.index(row.verdict), row.path)):
        typer.echo(f"{row.verdict.value:<10} {clean(row.path)}  {clean(row.reason)}")


def files_json(rows: Sequence[FileFinding]) -> list[dict[str, Any]]:
    return [
        {
            "path": row.path,
            "verdict": row.verdict.value,
            "expected": row.expected,
            "observed": row.observed,
            "reason": row.reason,
        }
        for row in rows
    ]


def _signer(key: Path, certificate: Path | None, chain: tuple[Path, ...]) -> Signer:
    from forgekit.attest import algorithms
    from forgekit.attest.trust import CertificateSigner, KeySigner

    password = os.environ.get(PASSWORD)
    private = algorithms.private_key(_bytes(key, "the key"), password.encode() if password else None)
    if certificate is None:
        return KeySigner(key=private)
    return CertificateSigner(key=private, certificate=certificate, chain=chain)


def _trust(
    key: Path | None, roots: Sequence[Path] | None, identity: str | None, issuer: str | None, config: Path | None
) -> Trust:
    from forgekit.attest import algorithms
    from forgekit.attest.trust import ByCertificate, ByIdentity, ByKey

    if (key is not None) + bool(roots) + (identity is not None) != 1 or (identity is None) != (issuer is None):
        raise typer.BadParameter("give --key, or --certificate-chain, or --identity with --issuer")
    if key is not None:
        return ByKey(key=algorithms.public_key(_bytes(key, "the key").decode("utf-8", "replace").strip()))
    if roots:
        return ByCertificate(roots=tuple(roots))
    return ByIdentity(identity=str(identity), issuer=str(issuer), trust_config=config)


def _place(target: str, bundle: Path | None, *, offline: bool) -> _Place:
    from forgekit.attest.materials import REPOSITORY
    from forgekit.sources.hub import HubSource

    if Path(target).is_dir():
        return _Place(target=target, folder=Path(target), hub=None, bundle=bundle)
    if target.startswith("hf://"):
        return _Place(target=target, folder=None, hub=HubSource.parse(target, offline=offline), bundle=bundle)
    if REPOSITORY.fullmatch(target):
        return _Place(target=f"hf://{target}", folder=None, hub=HubSource(target, offline=offline), bundle=bundle)
    raise SourceError(f"there is no folder {target!r}", hint="a folder, org/name, or hf://org/name[@revision]")


def _bundle(place: _Place) -> bytes:
    from forgekit.attest import openssf

    if place.bundle is not None:
        return _bytes(place.bundle, "the bundle")
    if place.hub is not None:
        return place.hub.fetch(openssf.NAME).read_bytes()
    assert place.folder is not None
    return _bytes(place.folder / openssf.NAME, "the bundle")


def _findings(place: _Place, data: bytes, signed: Signed, trust: Trust, unsigned: Verdict) -> list[FileFinding]:
    from forgekit.attest import openssf
    from forgekit.attest.checked_files import FileFinding, in_folder, on_hub

    held = signed.bundle
    if place.hub is not None:
        if held.unit:
            reason = f"the signature is over {held.unit}, and the Hub lists the SHA-256 of whole files"
            raise UnreachableError(reason, where=place.target, hint="download it, and verify the folder")
        name = place.bundle.name if place.bundle else openssf.NAME
        return on_hub(place.hub, held.files, {*held.ignored, name}, unsigned=unsigned)
    assert place.folder is not None
    ignored = openssf.ignoring(place.folder, place.bundle or place.folder / openssf.NAME)
    if held.unit:
        reason = openssf.judged_by_library(place.folder, data, trust, ignored)
        verdict = Verdict.REFUTED if reason else Verdict.CONFIRMED
        return [FileFinding(path=".", verdict=verdict, reason=reason or f"by its bytes, {held.unit}")]
    with bytes_progress("hashing", _size(place.folder)) as progress:
        return in_folder(place.folder, held.files, ignored, left_out=held.ignored, unsigned=unsigned, progress=progress)


def _print(place: _Place, rows: Sequence[FileFinding], *, refusal: str, signer: str, as_json: bool) -> None:
    from forgekit.attest.checked_files import TRUSTED
    from forgekit.findings import Coverage

    revision = place.hub.revision if place.hub is not None and not refusal else None
    if as_json:
        counts = Coverage(row.verdict for row in rows)
        print_json(
            {
                "schema": SCHEMA,
                "target": place.target,
                "revision": revision,
                "signature": {"holds": not refusal, "signer": signer or None, "reason": refusal or None},
                "trusts": TRUSTED if place.hub is not None else None,
                "summary": counts.as_json(),
                "files": files_json(rows),
            }
        )
        return
    if refusal:
        typer.echo(f"refuted    {place.target}  {refusal}")
        return
    print_files(rows)
    typer.echo(f"signed by {signer}", err=True)
    if place.hub is not None:
        typer.echo(f"at {revision}: {TRUSTED}", err=True)


def _size(folder: Path) -> int:
    """Bytes in a folder, for a bar."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"{what} cannot be read: {error.strerror}", where=str(path)) from error
