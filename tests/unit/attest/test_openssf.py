"""OpenSSF Model Signing: what we sign the library's own command verifies, and the other way; nothing changed passes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.attest import algorithms, openssf
from forgekit.attest.checked_files import in_folder
from forgekit.attest.openssf import Refusal, Signed
from forgekit.attest.trust import ByCertificate, ByIdentity, ByKey, CertificateSigner, KeylessSigner, KeySigner
from forgekit.errors import AttestationError, ForgeError, MachineError, SourceError, UnreachableError
from forgekit.findings import Verdict
from tests.support.certificates import DAY, certified
from tests.support.running import python, without_catalog
from tests.support.sigstore import STORE, Instance, token

KEY = algorithms.generate("ES256")
OTHER = algorithms.generate("ES256")
ROOT = certified("root", authority=True)
BETWEEN = certified("between", ROOT, authority=True)
SIGNER = certified("The Lab", BETWEEN)
FILES = {"config.json": b'{"layers": 2}\n', "model.safetensors": bytes(range(64)), "eval/samples.jsonl": b'{"a": 1}\n'}


def nested(inner):
    keys = st.sampled_from(["publicKey", "x509CertificateChain", "certificates", "rawBytes", "payload", "signatures"])
    return st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3)


@pytest.fixture(scope="module")
def bundle_by_key(tmp_path_factory):
    folder = tmp_path_factory.mktemp("by-key")
    openssf.sign(a_model(folder / "m"), folder / "m.sig", KeySigner(key=KEY))
    return (folder / "m.sig").read_bytes()


def a_model(folder, files=FILES):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def trusted(key=KEY):
    return ByKey(key=key.public_key())


def judged(folder, bundle, trust):
    """The verdicts on a folder's files, or why the bundle is refused."""
    read = openssf.read(bundle.read_bytes(), trust)
    if isinstance(read, Refusal):
        return read.reason
    return {row.path: row.verdict for row in in_folder(folder, read.bundle.files, openssf.ignoring(folder, bundle))}


def caught(data, trust):
    return isinstance(openssf.read(data, trust), Refusal)


def flips(data):
    """The data with one bit of one byte changed, for every byte; and with every bit of it."""
    for index in range(len(data)):
        for mask in (1 << index % 8, 0x20, 0xFF):
            changed = bytearray(data)
            changed[index] ^= mask
            yield index, bytes(changed)


def by_certificate(tmp_path, signer=SIGNER, **more):
    return CertificateSigner(
        key=signer.key,
        certificate=signer.write(tmp_path, "signer"),
        chain=(BETWEEN.write(tmp_path, "between"),),
        **more,
    )


def model_signing(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=without_catalog(),
    )


def public_pem(path, key):
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.mark.parametrize("algorithm", ["ES256", "ES384"])
def test_an_untouched_model_is_what_was_signed(tmp_path, algorithm):
    folder, key = a_model(tmp_path / "m"), algorithms.generate(algorithm)
    bundle = folder / "model.sig"

    assert openssf.sign(folder, bundle, KeySigner(key=key)) == len(FILES)
    assert judged(folder, bundle, trusted(key)) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_no_byte_of_any_file_can_be_changed(tmp_path):
    folder = a_model(tmp_path / "m")
    bundle = tmp_path / "m.sig"
    openssf.sign(folder, bundle, KeySigner(key=KEY))
    signed = openssf.read(bundle.read_bytes(), trusted())

    for path, data in FILES.items():
        for index, changed in flips(data):
            (folder / path).write_bytes(changed)
            rows = in_folder(folder, signed.bundle.files)
            assert {row.path for row in rows if row.verdict is Verdict.REFUTED} == {path}, (path, index)
        (folder / path).write_bytes(data)
    assert judged(folder, bundle, trusted()) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_no_file_can_be_added_removed_renamed_or_swapped(tmp_path):
    folder = a_model(tmp_path / "m")
    bundle = tmp_path / "m.sig"
    openssf.sign(folder, bundle, KeySigner(key=KEY))

    (folder / "pytorch_model.bin").write_bytes(b"new")
    assert judged(folder, bundle, trusted())["pytorch_model.bin"] is Verdict.REFUTED
    (folder / "pytorch_model.bin").unlink()
    (folder / "config.json").rename(folder / "config.yaml")
    found = judged(folder, bundle, trusted())
    assert (found["config.json"], found["config.yaml"]) == (Verdict.REFUTED, Verdict.REFUTED)
    (folder / "config.yaml").write_bytes(FILES["model.safetensors"])
    (folder / "config.yaml").rename(folder / "config.json")
    assert judged(folder, bundle, trusted())["config.json"] is Verdict.REFUTED


def test_no_byte_of_a_bundle_by_key_can_be_changed(tmp_path):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m", {"a": b"a"}), bundle, KeySigner(key=KEY))
    data = bundle.read_bytes()

    passed = [index for index, changed in flips(data) if not caught(changed, trusted())]

    assert passed == []
    assert not caught(data, trusted())


def test_no_byte_of_a_bundle_by_certificate_can_be_changed(tmp_path):
    bundle = tmp_path / "m.sig"
    signer = by_certificate(tmp_path)
    root = ROOT.write(tmp_path, "root")
    everything = CertificateSigner(key=signer.key, certificate=signer.certificate, chain=(*signer.chain, root))
    openssf.sign(a_model(tmp_path / "m", {"a": b"a"}), bundle, everything)
    data, trust = bundle.read_bytes(), ByCertificate(roots=(root,))

    passed = [index for index, changed in flips(data) if not caught(changed, trust)]

    assert passed == []
    assert not caught(data, trust)


def test_base64_has_one_spelling(tmp_path):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m", {"a": b"a" * 5}), bundle, KeySigner(key=KEY))
    tree = json.loads(bundle.read_bytes())
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    payload = tree["dsseEnvelope"]["payload"]
    if not payload.endswith("="):
        payload = base64.b64encode(base64.b64decode(payload) + b" ").decode()  # two bytes more make padding
    last = payload.rstrip("=")[-1]
    other = payload.rstrip("=")[:-1] + digits[digits.index(last) ^ 1] + "=" * payload.count("=")
    tree["dsseEnvelope"]["payload"] = other

    assert base64.b64decode(other) == base64.b64decode(payload)
    assert "not the base64" in openssf.read(json.dumps(tree).encode(), trusted()).reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: tree.update(more=1), "which no signature covers"),
        (lambda tree: tree["verificationMaterial"].update(more=1), "which no signature covers"),
        (lambda tree: tree["verificationMaterial"].update(certificate={}), "not one verification material"),
        (lambda tree: tree["dsseEnvelope"]["signatures"].append({}), "not one signature"),
        (lambda tree: tree["dsseEnvelope"].update(payload=""), "cannot be read"),
        (lambda tree: tree.update(mediaType="application/json"), "the library refuses it"),
        (lambda tree: tree["dsseEnvelope"].update(payloadType="text/plain"), "the library refuses it"),
        (lambda tree: tree.pop("dsseEnvelope"), "no verificationMaterial and dsseEnvelope"),
    ],
)
def test_what_is_no_bundle_is_told(tmp_path, change, says):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m"), bundle, KeySigner(key=KEY))
    tree = json.loads(bundle.read_bytes())
    change(tree)

    assert says in openssf.read(json.dumps(tree).encode(), trusted()).reason


def resigned(bundle, change, key=KEY):
    """A bundle over another statement, signed again."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from forgekit.attest.dsse import IN_TOTO, encoded

    tree = json.loads(bundle.read_bytes())
    statement = json.loads(base64.b64decode(tree["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    tree["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signature = key.sign(encoded(IN_TOTO, payload), ec.ECDSA(hashes.SHA256()))
    tree["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "signed twice"),
        (lambda s: s["predicate"]["resources"][0].update(name="../a"), "no path inside"),
        (lambda s: s["predicate"]["resources"][0].update(name="x//a"), "no path inside"),
        (lambda s: s["predicate"]["resources"][0].update(digest="zz"), "no hash of"),
        (lambda s: s["predicate"].update(resources=[]), "signs no files"),
        (lambda s: s["predicate"]["serialization"].update(ignore_paths="x"), "not a list of paths"),
        (lambda s: s.update(subject=[]), "not one subject"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "its predicate is"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "the library refuses it"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "Manifest is inconsistent"),
    ],
)
def test_what_a_signer_signs_wrongly_is_told(tmp_path, change, says):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m", {"a": b"a"}), bundle, KeySigner(key=KEY))

    assert isinstance(openssf.read(resigned(bundle, lambda _: None), trusted()), Signed)
    assert says in openssf.read(resigned(bundle, change), trusted()).reason


def test_another_key_is_refused(tmp_path):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m"), bundle, KeySigner(key=KEY))

    assert "Key mismatch" in openssf.read(bundle.read_bytes(), trusted(OTHER)).reason
    data = bundle.read_bytes().replace(b'"hint":', b'"rawBytes":"AA==","hint":')
    tree = json.loads(data)
    tree["verificationMaterial"]["publicKey"].pop("hint")
    assert openssf.read(json.dumps(tree).encode(), trusted(OTHER)).reason == (
        "the signature is not this key's over these files"
    )


def test_a_bundle_of_one_mode_is_not_verified_in_another(tmp_path):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m"), bundle, KeySigner(key=KEY))
    roots = ByCertificate(roots=(ROOT.write(tmp_path, "root"),))

    assert openssf.read(bundle.read_bytes(), roots).reason == (
        "the bundle is signed in key mode, and is to be verified in certificate mode"
    )
    identity = ByIdentity(identity="a@example.org", issuer="https://example.org")
    assert "keyless mode" in openssf.read(bundle.read_bytes(), identity).reason


# --- certificates -----------------------------------------------------------


def test_a_certificate_that_leads_to_a_trusted_one_says_who_signed(tmp_path):
    folder, bundle = a_model(tmp_path / "m"), tmp_path / "m.sig"
    openssf.sign(folder, bundle, by_certificate(tmp_path))
    trust = ByCertificate(roots=(ROOT.write(tmp_path, "root"),))

    assert openssf.read(bundle.read_bytes(), trust).signer == "CN=The Lab, by its certificate"
    assert judged(folder, bundle, trust) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_a_certificate_of_another_authority_is_refused(tmp_path):
    bundle = tmp_path / "m.sig"
    openssf.sign(a_model(tmp_path / "m"), bundle, by_certificate(tmp_path))
    stranger = certified("root", authority=True).write(tmp_path, "stranger")

    assert (
        "does not lead to a trusted one" in openssf.read(bundle.read_bytes(), ByCertificate(roots=(stranger,))).reason
    )
    with pytest.raises(AttestationError, match="no trusted certificate"):
        openssf.read(bundle.read_bytes(), ByCertificate(roots=()))


def test_a_certificate_that_has_run_out_is_refused_though_the_library_takes_it(tmp_path):
    bundle, root = tmp_path / "m.sig", ROOT.write(tmp_path, "root")
    openssf.sign(a_model(tmp_path / "m"), bundle, by_certificate(tmp_path))
    data, now = bundle.read_bytes(), datetime.now(UTC)

    assert isinstance(openssf.read(data, ByCertificate(roots=(root,), now=now + 9 * DAY)), Signed)
    late = openssf.read(data, ByCertificate(roots=(root,), now=now + 11 * DAY)).reason
    assert "ran out at" in late
    assert "nothing dates the signature" in late
    assert "begins at" in openssf.read(data, ByCertificate(roots=(root,), now=now - 11 * DAY)).reason


def test_nothing_is_signed_with_a_certificate_that_is_not_in_force_or_for_another_key(tmp_path):
    folder, out = a_model(tmp_path / "m"), tmp_path / "m.sig"
    now = datetime.now(UTC)
    expired = certified("late", BETWEEN, since=now - 9 * DAY, until=now - timedelta(hours=1))
    with pytest.raises(AttestationError, match="ran out"):
        openssf.sign(folder, out, by_certificate(tmp_path, expired))
    swapped = CertificateSigner(key=OTHER, certificate=SIGNER.write(tmp_path, "signer"))
    with pytest.raises(AttestationError, match="for another key"):
        openssf.sign(folder, out, swapped)
    assert not out.exists()


def test_a_certificate_that_may_not_sign_and_one_that_leads_nowhere_are_refused(tmp_path):
    root = ROOT.write(tmp_path, "root")
    bundle = tmp_path / "m.sig"
    mute = certified("mute", BETWEEN, may_sign=False)
    openssf.sign(a_model(tmp_path / "m"), bundle, by_certificate(tmp_path, mute))
    assert "cannot be used for signing" in openssf.read(bundle.read_bytes(), ByCertificate(roots=(root,))).reason

    signer = by_certificate(tmp_path)
    stray = certified("stray", authority=True).write(tmp_path, "stray")
    more = CertificateSigner(key=signer.key, certificate=signer.certificate, chain=(*signer.chain, stray))
    openssf.sign(tmp_path / "m", bundle, more)
    assert "not on the way" in openssf.read(bundle.read_bytes(), ByCertificate(roots=(root,))).reason


@pytest.mark.parametrize("algorithm", ["EdDSA", "ML-DSA-65"])
def test_a_key_that_the_standard_does_not_take_is_told(tmp_path, algorithm):
    with pytest.raises(AttestationError, match="P-256, P-384 and P-521 only"):
        openssf.sign(a_model(tmp_path / "m"), tmp_path / "m.sig", KeySigner(key=algorithms.generate(algorithm)))


# --- the library's own command ----------------------------------------------


def test_the_library_s_command_verifies_what_we_signed_by_key_and_we_what_it_signed(tmp_path):
    folder, bundle = a_model(tmp_path / "m"), tmp_path / "m" / "model.sig"
    private, public = tmp_path / "key.pem", public_pem(tmp_path / "key.pub", KEY)
    private.write_bytes(algorithms.private_pem(KEY))
    verify = ("verify", "key", folder, "--signature", bundle, "--public_key", public)

    openssf.sign(folder, bundle, KeySigner(key=KEY))
    ran = model_signing(*verify)
    assert (ran.returncode, "Verification succeeded" in ran.stdout + ran.stderr) == (0, True), ran.stderr
    (folder / "config.json").write_bytes(b"{}")
    assert model_signing(*verify).returncode == 1

    signed = model_signing("sign", "key", folder, "--signature", bundle, "--private_key", private)
    assert signed.returncode == 0, signed.stderr
    assert judged(folder, bundle, trusted()) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_the_library_s_command_verifies_what_we_signed_by_certificate_and_we_what_it_signed(tmp_path):
    folder, bundle = a_model(tmp_path / "m"), tmp_path / "m.sig"
    private, root = tmp_path / "key.pem", ROOT.write(tmp_path, "root")
    private.write_bytes(algorithms.private_pem(SIGNER.key))
    signer = by_certificate(tmp_path)

    openssf.sign(folder, bundle, signer)
    verify = ("verify", "certificate", folder, "--signature", bundle, "--certificate_chain", root)
    ran = model_signing(*verify)
    assert ran.returncode == 0, ran.stderr

    options = ("--private_key", private, "--signing_certificate", signer.certificate)
    chain = ("--certificate_chain", signer.chain[0])
    signed = model_signing("sign", "certificate", folder, "--signature", bundle, *options, *chain)
    assert signed.returncode == 0, signed.stderr
    assert judged(folder, bundle, ByCertificate(roots=(root,))) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_what_is_of_git_and_of_the_hub_s_client_is_no_part_of_a_model(tmp_path):
    folder, bundle = a_model(tmp_path / "m"), tmp_path / "m.sig"
    more = {".gitattributes": b"x", ".git/HEAD": b"x", ".cache/huggingface/download/a.lock": b"", ".gitignore": b"x"}
    openssf.sign(folder, bundle, KeySigner(key=KEY))
    a_model(folder, more)

    assert judged(folder, bundle, trusted()) == dict.fromkeys(FILES, Verdict.CONFIRMED)
    public = public_pem(tmp_path / "key.pub", KEY)
    ran = model_signing("verify", "key", folder, "--signature", bundle, "--public_key", public)
    assert ran.returncode == 0, ran.stderr


def test_what_a_signer_leaves_out_is_named_and_unchecked(tmp_path):
    from model_signing import hashing, signing

    folder, bundle, private = a_model(tmp_path / "m"), tmp_path / "m.sig", tmp_path / "key.pem"
    private.write_bytes(algorithms.private_pem(KEY))
    how = hashing.Config().set_ignored_paths(paths=["model.safetensors"])
    signing.Config().set_hashing_config(how).use_elliptic_key_signer(private_key=private).sign(folder, bundle)

    held = openssf.read(bundle.read_bytes(), trusted()).bundle
    rows = {row.path: row for row in in_folder(folder, held.files, left_out=held.ignored)}
    assert rows["model.safetensors"].verdict is Verdict.UNCHECKED
    assert rows["model.safetensors"].reason == "the signature leaves it out"
    assert rows["config.json"].verdict is Verdict.CONFIRMED


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(max_size=5), nested, max_leaves=6))
@settings(max_examples=120, deadline=None)
def test_whatever_stands_in_a_bundle_it_is_refused_and_nothing_breaks(value):
    data = value if isinstance(value, bytes) else json.dumps({"verificationMaterial": value, "dsseEnvelope": value})

    assert caught(data if isinstance(data, bytes) else data.encode(), trusted())


@pytest.mark.parametrize("place", ["mediaType", "verificationMaterial", "dsseEnvelope", "publicKey", "signatures"])
@pytest.mark.parametrize("value", [None, 0, "", "x", [], [None], [[]], {}, {"certificates": [1]}])
def test_no_odd_value_in_a_bundle_breaks_anything(bundle_by_key, place, value):
    tree = json.loads(bundle_by_key)
    holder = {"publicKey": tree["verificationMaterial"], "signatures": tree["dsseEnvelope"]}.get(place, tree)
    holder[place] = value

    # a key without a hint, as older signers write it, is judged by the signature alone
    trust = trusted(OTHER if (place, value) == ("publicKey", {}) else KEY)
    assert caught(json.dumps(tree).encode(), trust)


@pytest.mark.parametrize("method", ["shards", "blake3"])
def test_bundles_over_shards_and_other_hashes_are_left_to_the_library(tmp_path, method):
    from model_signing import hashing, signing

    folder, bundle, private = a_model(tmp_path / "m"), tmp_path / "m.sig", tmp_path / "key.pem"
    private.write_bytes(algorithms.private_pem(KEY))
    how = hashing.Config()
    if method == "shards":
        how.use_shard_serialization(shard_size=16)
    else:
        how.use_file_serialization(hashing_algorithm="blake3")
    signing.Config().set_hashing_config(how).use_elliptic_key_signer(private_key=private).sign(folder, bundle)
    data = bundle.read_bytes()

    held = openssf.read(data, trusted()).bundle
    assert (held.files, held.unit) == ({}, "shards by sha256" if method == "shards" else "files by blake3")
    assert openssf.judged_by_library(folder, data, trusted(), ()) == ""
    (folder / "config.json").write_bytes(b"{}")
    assert "config.json" in openssf.judged_by_library(folder, data, trusted(), ())


# --- links ------------------------------------------------------------------


def a_cache(folder, files=FILES):
    """A snapshot as the Hub's client lays it out: links into a folder of blobs."""
    repo = folder / "models--org--name"
    snapshot = repo / "snapshots" / ("1" * 40)
    for index, (path, data) in enumerate(files.items()):
        blob = repo / "blobs" / f"{index:064x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(os.path.relpath(blob, (snapshot / path).parent))
    return snapshot


def test_a_snapshot_of_the_hub_s_cache_is_signed_as_the_files_it_leads_to(tmp_path):
    snapshot, bundle = a_cache(tmp_path), tmp_path / "m.sig"

    openssf.sign(snapshot, bundle, KeySigner(key=KEY))

    held = openssf.read(bundle.read_bytes(), trusted()).bundle
    assert held.name == "org/name"
    assert held.statement["predicate"]["serialization"]["allow_symlinks"] is False
    assert judged(snapshot, bundle, trusted()) == dict.fromkeys(FILES, Verdict.CONFIRMED)
    copied = a_model(tmp_path / "copied")
    assert judged(copied, bundle, trusted()) == dict.fromkeys(FILES, Verdict.CONFIRMED)
    public = public_pem(tmp_path / "key.pub", KEY)
    ran = model_signing("verify", "key", copied, "--signature", bundle, "--public_key", public)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("kind", ["outside", "other blobs", "folder", "nothing", "loop", "pipe"])
def test_a_link_that_leads_elsewhere_is_refused(tmp_path, kind):
    snapshot = a_cache(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    elsewhere = tmp_path / "models--org--other" / "blobs"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a").write_bytes(b"a")
    link = snapshot / "link"
    if kind == "pipe":
        os.mkfifo(link)
    else:
        targets = {"outside": tmp_path / "secret", "other blobs": elsewhere / "a", "folder": elsewhere}
        link.symlink_to({**targets, "nothing": tmp_path / "absent", "loop": link}[kind])

    with pytest.raises(SourceError, match=r"link that leaves|link to a folder|link to nothing|neither a file"):
        openssf.sign(snapshot, tmp_path / "m.sig", KeySigner(key=KEY))
    assert not (tmp_path / "m.sig").exists()


def test_a_folder_that_is_no_snapshot_has_no_blobs_to_lead_to(tmp_path):
    folder = a_model(tmp_path / "m")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(b"a")
    (folder / "a").symlink_to("../blobs/a")

    with pytest.raises(SourceError, match="link that leaves the artifact"):
        openssf.sign(folder, tmp_path / "m.sig", KeySigner(key=KEY))


def test_there_must_be_something_to_sign(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(AttestationError, match="no file to sign"):
        openssf.sign(tmp_path / "m", tmp_path / "m.sig", KeySigner(key=KEY))
    with pytest.raises(SourceError, match="no such folder"):
        openssf.sign(tmp_path / "absent", tmp_path / "m.sig", KeySigner(key=KEY))


# --- keyless, and without the library ---------------------------------------


def test_keyless_mode_says_what_it_lacks(tmp_path):
    config = tmp_path / "trust.json"
    config.write_text("{}")
    folder = a_model(tmp_path / "m")
    signer = KeylessSigner(token="x", trust_config=config)
    with pytest.raises(ForgeError, match="the library refuses"):
        openssf.sign(folder, tmp_path / "m.sig", signer)
    certificate = base64.b64encode(SIGNER.certificate.public_bytes(Encoding.DER)).decode()
    openssf.sign(folder, tmp_path / "m.sig", KeySigner(key=KEY))
    tree = json.loads((tmp_path / "m.sig").read_bytes())
    tree["verificationMaterial"] = {"certificate": {"rawBytes": certificate}, "tlogEntries": []}
    trust = ByIdentity(identity="a@example.org", issuer="https://example.org", trust_config=config)
    assert "no entry of a transparency log" in openssf.read(json.dumps(tree).encode(), trust).reason
    tree["verificationMaterial"]["tlogEntries"] = [{"logIndex": "1"}]
    with pytest.raises(ForgeError, match="the library refuses"):
        openssf.read(json.dumps(tree).encode(), trust)


def test_keyless_mode_asks_sigstore_s_own_roots(tmp_path):
    parts = {"trustedRoot": "trusted_root.json", "signingConfig": "signing_config.v0.2.json"}
    config = {"mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"}
    config |= {name: json.loads((STORE / path).read_bytes()) for name, path in parts.items()}
    (tmp_path / "trust.json").write_text(json.dumps(config))
    trust = ByIdentity(identity="a@example.org", issuer="https://example.org", trust_config=tmp_path / "trust.json")
    openssf.sign(a_model(tmp_path / "m"), tmp_path / "m.sig", KeySigner(key=SIGNER.key))
    tree = json.loads((tmp_path / "m.sig").read_bytes())
    certificate = base64.b64encode(SIGNER.certificate.public_bytes(Encoding.DER)).decode()
    entry = {
        "logIndex": "1",
        "logId": {"keyId": base64.b64encode(b"1" * 32).decode()},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1",
        "inclusionPromise": {"signedEntryTimestamp": "AAAA"},
        "inclusionProof": {
            "logIndex": "0",
            "rootHash": base64.b64encode(b"1" * 32).decode(),
            "treeSize": "1",
            "hashes": [],
            "checkpoint": {"envelope": "x"},
        },
        "canonicalizedBody": base64.b64encode(b"{}").decode(),
    }
    tree["verificationMaterial"] = {"certificate": {"rawBytes": certificate}, "tlogEntries": [entry]}

    assert "Sigstore refuses it" in openssf.read(json.dumps(tree).encode(), trust).reason


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    """A model, a bundle in which an identity signs it, and the trust in our own Sigstore."""
    folder, instance = tmp_path_factory.mktemp("keyless"), Instance()
    openssf.sign(a_model(folder / "m"), folder / "m.sig", KeySigner(key=KEY))
    statement = base64.b64decode(json.loads((folder / "m.sig").read_bytes())["dsseEnvelope"]["payload"])
    (folder / "m.sig").write_bytes(instance.bundle(statement, "lab@example.org", "https://login.example.org"))
    return folder, instance.write_trust(folder / "trust.json")


def by_identity(trust, **more):
    return ByIdentity(
        **{"identity": "lab@example.org", "issuer": "https://login.example.org", "trust_config": trust, **more}
    )


def test_an_identity_that_sigstore_certified_has_signed(keyless):
    folder, trust = keyless

    read = openssf.read((folder / "m.sig").read_bytes(), by_identity(trust))
    assert isinstance(read, Signed), read
    assert read.signer == "lab@example.org, certified by https://login.example.org"
    assert judged(folder / "m", folder / "m.sig", by_identity(trust)) == dict.fromkeys(FILES, Verdict.CONFIRMED)


def test_an_identity_signs_through_sigstore_and_we_and_the_library_s_command_verify_it(tmp_path):
    folder, bundle, instance = a_model(tmp_path / "m"), tmp_path / "m.sig", Instance()

    with instance.serving() as address:
        trust = instance.write_trust(tmp_path / "trust.json", address)
        signer = KeylessSigner(token=token("lab@example.org", "https://login.example.org"), trust_config=trust)
        openssf.sign(folder, bundle, signer)
        no_log = KeylessSigner(token=signer.token, trust_config=instance.write_trust(tmp_path / "x", f"{address}/x"))
        with pytest.raises(UnreachableError, match="or gives no answer"):
            openssf.sign(folder, tmp_path / "other.sig", no_log)

    assert judged(folder, bundle, by_identity(trust)) == dict.fromkeys(FILES, Verdict.CONFIRMED)
    who = ("--identity", "lab@example.org", "--identity_provider", "https://login.example.org")
    ran = model_signing("verify", "sigstore", folder, "--signature", bundle, *who, "--trust_config", trust)
    assert ran.returncode == 0, ran.stderr
    with pytest.raises(UnreachableError, match="Sigstore cannot be reached"):
        openssf.sign(folder, tmp_path / "other.sig", signer)


def test_another_identity_issuer_or_instance_has_not(keyless, tmp_path):
    folder, trust = keyless
    data = (folder / "m.sig").read_bytes()

    assert "Sigstore refuses it" in openssf.read(data, by_identity(trust, identity="eve@example.org")).reason
    assert "Sigstore refuses it" in openssf.read(data, by_identity(trust, issuer="https://eve.example.org")).reason
    other = Instance().write_trust(tmp_path / "trust.json")
    assert "Sigstore refuses it" in openssf.read(data, by_identity(other)).reason


def test_no_byte_of_what_an_identity_signed_can_be_changed_but_the_log_s_name(keyless):
    folder, trust = keyless
    data = (folder / "m.sig").read_bytes()
    name = b"log.example.org"  # in the checkpoint, where Sigstore goes by the key's hash beside it
    start = data.index(b"\\u2014 " + name) + len(b"\\u2014 ")

    passed = [
        index
        for index in range(len(data))
        if not caught(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :], by_identity(trust))
    ]
    assert passed == [*range(start, start + len(name))]


@pytest.mark.parametrize("missing", ["model_signing", "OpenSSL", "sigstore"])
def test_a_missing_library_is_told_with_what_installs_it(missing):
    ran = python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from forgekit.attest import algorithms, openssf; from forgekit.attest.trust import *\n"
        "from forgekit.errors import MachineError; from pathlib import Path; import tempfile\n"
        "d = Path(tempfile.mkdtemp()); (d / 'a').write_bytes(b'a'); key = algorithms.generate('ES256')\n"
        "try:\n    openssf.sign(d, d / 'm.sig', KeySigner(key=key))\n"
        "except MachineError as error: print(error)\n"
    )

    assert f"the library {missing} is not installed" in ran.out, ran.err
    assert "pip install 'forgekit[attest]'" in ran.out
    assert MachineError.__name__ not in ran.err
