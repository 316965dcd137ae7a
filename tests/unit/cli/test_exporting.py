"""``forgekit attest``, as a user runs it."""

from __future__ import annotations

import json
import shutil

import pytest

from forgekit.attest import algorithms, openssf
from forgekit.attest.trust import KeySigner
from tests.support.certificates import certified
from tests.support.hub import Hub, Repo, repo_of, serving
from tests.support.running import EMBEDDED, forgekit, python, within, without_catalog
from tests.support.sigstore import Instance, token

EMBER = EMBEDDED / "forgekit" / "ember-moe-tiny"
STUDENT = EMBER / "eval" / "forgekit_mini" / "student_samples.jsonl"
COMMANDS = ("model-sign", "model-verify", "provenance", "bom", "evals", "verify", "prove", "check-record")
FILES = {"config.json": b'{"layers": 2}\n', "model.safetensors": bytes(range(64)), "eval/samples.jsonl": b'{"a": 1}\n'}
KEY = algorithms.generate("ES256")


@pytest.fixture
def keys(tmp_path):
    """A private key, its public text, and a registry that lists it as lab."""
    private, public, registry = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "keys.json"
    private.write_bytes(algorithms.private_pem(KEY))
    public.write_text(algorithms.public_text(KEY) + "\n")
    assert within("keys", "add", registry, "lab", public.read_text().strip(), "--owner", "The Lab").code == 0
    return private, public, registry


def a_model(folder, files=FILES):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_the_group_explains_every_command():
    ran = forgekit("attest", "--help")

    assert ran.code == 0
    assert all(name in ran.out for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["model-sign", EMBER],
        ["model-sign", EMBER, "--keyless", "--key", "x"],
        ["model-verify", EMBER],
        ["model-verify", EMBER, "--identity", "x"],
        ["provenance", EMBER, "--key", "x"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:1] + arguments[2:])),
)
def test_bad_usage_is_2(arguments):
    ran = within("attest", *arguments)

    assert (ran.code, ran.out) == (2, "")


# --- models -----------------------------------------------------------------


def test_a_folder_is_signed_verified_and_refuted_once_it_is_changed(tmp_path, keys):
    private, public, _ = keys
    folder = a_model(tmp_path / "m")

    signed = within("attest", "model-sign", folder, "--key", private, "--json")
    assert (signed.code, signed.json["files"]) == (0, 3)
    assert within("attest", "model-verify", folder, "--key", public).code == 0
    (folder / "config.json").write_bytes(b"{}")
    ran = within("attest", "model-verify", folder, "--key", public, "--json")
    assert ran.code == 1
    assert ran.json["summary"] == {"confirmed": 2, "refuted": 1, "unproven": 0, "unchecked": 0}
    assert ran.json["signature"]["holds"] is True
    (folder / "model.sig").write_bytes(b"{}")
    ran = within("attest", "model-verify", folder, "--key", public)
    assert (ran.code, ran.out.split()[0]) == (1, "refuted")
    assert within("attest", "model-verify", folder, "--bundle", tmp_path / "absent", "--key", public).code == 2


def test_a_folder_is_signed_and_verified_by_certificate_and_by_an_encrypted_key(tmp_path):
    root = certified("root", authority=True)
    signer = certified("The Lab", root)
    private, folder = tmp_path / "key.pem", a_model(tmp_path / "m")
    private.write_bytes(algorithms.private_pem(signer.key, b"secret"))
    env = without_catalog(FORGEKIT_KEY_PASSWORD="secret")
    certificate, trusted = signer.write(tmp_path, "signer"), root.write(tmp_path, "root")

    options = ("--key", private, "--certificate", certificate, "--chain", trusted)
    assert within("attest", "model-sign", folder, *options, env=env).code == 0
    ran = within("attest", "model-verify", folder, "--certificate-chain", trusted, "--json")

    assert (ran.code, ran.json["signature"]["signer"]) == (0, "CN=The Lab, by its certificate")
    assert within("attest", "model-sign", folder, *options).code == 2


def test_a_folder_is_signed_and_verified_by_identity(tmp_path):
    folder, instance = a_model(tmp_path / "m"), Instance()
    who = ("lab@example.org", "https://login.example.org")

    with instance.serving() as address:
        trust = ("--trust-config", instance.write_trust(tmp_path / "trust.json", address))
        signed = within("attest", "model-sign", folder, "--keyless", "--identity-token", token(*who), *trust)
    ran = within("attest", "model-verify", folder, "--identity", who[0], "--issuer", who[1], *trust, "--json")

    assert (signed.code, ran.code) == (0, 0), signed.err + ran.err
    assert ran.json["signature"]["signer"] == "lab@example.org, certified by https://login.example.org"
    again = within("attest", "model-sign", folder, "--keyless", "--identity-token", token(*who), *trust)
    assert (again.code, "Sigstore cannot be reached" in again.err) == (2, True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Repositories that were signed, and then changed in one way each."""
    folder = tmp_path_factory.mktemp("signed")
    a_model(folder)
    openssf.sign(folder, folder / "model.sig", KeySigner(key=KEY))
    (folder / "key.pub").write_text(algorithms.public_text(KEY))
    honest = FILES | {"model.sig": (folder / "model.sig").read_bytes(), ".gitattributes": b"*.safetensors lfs\n"}
    weights = {"model.safetensors": b"other weights"}
    repos = {
        "org/honest": Repo(honest),
        "org/weights": Repo(honest | weights),
        "org/small": Repo(honest | {"config.json": b'{"layers": 3}\n'}),
        "org/more": Repo(honest | {"pytorch_model.bin": b"new"}),
        "org/less": Repo({path: data for path, data in honest.items() if path != "config.json"}),
        "org/lies": Repo(honest, lies={"config.json": "0" * 40}),
        "org/bare": Repo(FILES),
        "org/ember": repo_of(EMBER),
        "org/other-ember": Repo(repo_of(EMBER).files | weights),
    }
    with serving(Hub(repos)) as served:
        yield served, folder / "key.pub"


def on_hub(hub, tmp_path, name, *more):
    served, public = hub
    env = served.environment(tmp_path)
    return forgekit("attest", "model-verify", name, "--key", public, *more, "--json", env=env, cwd=tmp_path)


def test_a_repository_on_the_hub_is_verified_without_its_weights(hub, tmp_path):
    ran = on_hub(hub, tmp_path, "org/honest")

    assert ran.code == 0, ran.err
    found = {row["path"]: (row["verdict"], row["reason"]) for row in ran.json["files"]}
    assert {path for path, (verdict, _) in found.items() if verdict == "confirmed"} == set(FILES)
    assert "the Hub's listing at" in found["model.safetensors"][1]
    assert found["config.json"][1] == "by its bytes, fetched: the Hub lists no SHA-256 of it"
    assert found[".gitattributes"] == ("unchecked", "the signature leaves it out")
    assert ran.json["trusts"] == (
        "the Hub is trusted to serve the bytes whose SHA-256 it lists; no weights were downloaded"
    )
    assert not [path for path in hub[0].seen if path.endswith("model.safetensors") and "resolve" in path]


@pytest.mark.parametrize(
    ("name", "path", "says"),
    [
        ("org/weights", "model.safetensors", "by the Hub's listing"),
        ("hf://org/small", "config.json", "by its bytes, fetched"),
        ("org/more", "pytorch_model.bin", "the Hub lists it, and nobody signed it"),
        ("org/less", "config.json", "it is signed, and the Hub does not list it"),
    ],
)
def test_a_repository_that_is_not_what_was_signed_is_refuted_file_by_file(hub, tmp_path, name, path, says):
    ran = on_hub(hub, tmp_path, name)

    (wrong,) = [row for row in ran.json["files"] if row["verdict"] == "refuted"]
    assert (ran.code, wrong["path"]) == (1, path)
    assert says in wrong["reason"]
    if name == "org/more":
        assert on_hub(hub, tmp_path, name, "--ignore-unsigned").code == 0


def test_what_the_hub_does_not_serve_as_listed_is_unchecked(hub, tmp_path):
    ran = on_hub(hub, tmp_path, "org/lies")

    (row,) = [row for row in ran.json["files"] if row["path"] == "config.json"]
    assert row["verdict"] == "unchecked"
    assert "git blob" in row["reason"]


def test_a_signature_over_shards_cannot_be_held_to_a_listing(hub, tmp_path, keys):
    from model_signing import hashing, signing

    folder, bundle = a_model(tmp_path / "m"), tmp_path / "shards.sig"
    how = hashing.Config().use_shard_serialization(shard_size=16)
    signing.Config().set_hashing_config(how).use_elliptic_key_signer(private_key=keys[0]).sign(folder, bundle)

    ran = on_hub(hub, tmp_path, "org/honest", "--bundle", bundle)
    assert (ran.code, ran.out) == (3, "")
    assert "the signature is over shards by sha256, and the Hub lists the SHA-256 of whole files" in ran.err
    assert within("attest", "model-verify", folder, "--bundle", bundle, "--key", keys[1]).code == 0


def test_provenance_of_a_repository_holds_it_to_its_listing_without_the_weights(hub, tmp_path):
    served, _ = hub
    env = served.environment(tmp_path)

    ran = forgekit("attest", "provenance", "hf://org/ember", env=env, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == within("attest", "provenance", EMBER).out
    ran = forgekit("attest", "provenance", "hf://org/other-ember", env=env, cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert not [path for path in served.seen if "resolve" in path and path.endswith("model.safetensors")]


def test_what_cannot_be_asked_is_3_and_what_is_not_there_is_2(hub, tmp_path):
    ran = on_hub(hub, tmp_path, "org/honest", "--offline")
    assert (ran.code, ran.out) == (3, "")
    assert "nothing could be checked" in ran.err
    assert on_hub(hub, tmp_path, "org/bare").code == 2
    assert on_hub(hub, tmp_path, "no folder here").code == 2


@pytest.mark.parametrize("command", [["model-verify", EMBER, "--key"], ["model-sign", EMBER, "--key"]])
def test_without_the_library_nothing_is_verified_or_signed(tmp_path, keys, command):
    private, public, _ = keys
    folder = a_model(tmp_path / "m")
    openssf.sign(folder, folder / "model.sig", KeySigner(key=KEY))
    before = (folder / "model.sig").read_bytes()
    key = public if command[0] == "model-verify" else private
    arguments = ["forgekit", "attest", command[0], str(folder), "--key", str(key)]

    ran = python(
        f"import sys; sys.modules['model_signing'] = None; sys.argv = {arguments!r}\n"
        "from forgekit.cli import main; main()"
    )

    assert (ran.code, ran.out) == (3 if command[0] == "model-verify" else 2, "")
    assert "pip install 'forgekit[attest]'" in ran.err
    assert "Traceback" not in ran.err
    assert (folder / "model.sig").read_bytes() == before


# --- statements -------------------------------------------------------------


def test_provenance_is_printed_or_signed_and_verified_against_the_artifact(tmp_path, keys):
    private, _, registry = keys
    out = tmp_path / "provenance.intoto.jsonl"

    printed = within("attest", "provenance", EMBER)
    assert printed.json["predicateType"] == "https://slsa.dev/provenance/v1"
    assert printed.out == within("attest", "provenance", EMBER).out
    assert within("attest", "provenance", EMBER, "--key", private, "--key-id", "lab", "-o", out).code == 0
    ran = within("attest", "verify", out, "--keys", registry, "--target", EMBER, "--json")
    assert ran.code == 0
    (row,) = ran.json["statements"]
    assert (row["verdict"], row["owner"]) == ("confirmed", "The Lab")
    assert {file["verdict"] for file in row["files"]} == {"confirmed"}
    changed = shutil.copytree(EMBER, tmp_path / "changed")
    (changed / "model.safetensors").write_bytes(b"x")
    assert within("attest", "verify", out, "--keys", registry, "--target", changed).code == 1
    assert within("attest", "verify", out).code == 3


def test_nothing_is_stated_of_an_artifact_whose_files_are_others(tmp_path):
    folder = shutil.copytree(EMBER, tmp_path / "ember")
    (folder / "model.safetensors").write_bytes(b"x")

    for command in ("provenance", "bom"):
        ran = within("attest", command, folder, "-o", tmp_path / "out.json")
        assert (ran.code, (tmp_path / "out.json").exists()) == (1, False)
        assert "refuted    model.safetensors" in ran.err
    (folder / "model.safetensors").unlink()
    ran = within("attest", "bom", folder)
    assert (ran.code, ran.json["bomFormat"]) == (0, "CycloneDX")
    assert "0 of 1 files are held to the alloy" in ran.err


def test_source_date_epoch_dates_a_bill_of_materials():
    dated = within("attest", "bom", EMBER, env=without_catalog(SOURCE_DATE_EPOCH="86400"))

    assert dated.json["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    assert within("attest", "bom", EMBER, env=without_catalog(SOURCE_DATE_EPOCH="now")).code == 2


def test_confirmed_scores_are_attested_with_an_entry_for_the_hub_and_the_others_are_refused(tmp_path, keys):
    private, _, registry = keys
    out = tmp_path / "out"
    sign = ("--key", private, "--key-id", "lab", "--out", out, "--offline")

    ran = within(
        *("attest", "evals", "forgekit/ember-moe-tiny", *sign, "--hub-dataset", "forgekit_mini=forgekit/mini", "--json")
    )

    assert ran.code == 0, ran.err
    score, base = ran.json["scores"]
    assert score["statement"] == str(out / "attestations" / "forgekit_mini.intoto.jsonl")
    assert "another model" in base["reason"]
    text = (out / ".eval_results" / "forgekit_mini.yaml").read_text()
    assert "ember-moe-tiny/blob/main/attestations/forgekit_mini.intoto.jsonl" in text
    statement = out / "attestations" / "forgekit_mini.intoto.jsonl"
    ran = within("attest", "verify", statement, "--keys", registry, "--target", "forgekit/ember-moe-tiny")
    assert ran.code == 0
    assert within("keys", "revoke", registry, "lab").code == 0
    assert within("attest", "verify", statement, "--keys", registry).code == 1


def test_a_score_that_is_refuted_makes_no_statement(tmp_path, keys):
    out = tmp_path / "out"

    sign = ("--key", keys[0], "--key-id", "lab", "--out", out, "--offline")
    ran = within("attest", "evals", EMBEDDED / "counterexamples" / "inflated-score", *sign)

    assert ran.code == 1
    assert "nothing is attested (it is refuted: re-scoring gives" in ran.out
    assert not out.exists()


# --- records ----------------------------------------------------------------


def test_one_record_is_proved_and_checked_without_the_others(tmp_path):
    proof, record = tmp_path / "proof.json", tmp_path / "record"
    record.write_bytes(STUDENT.read_bytes().splitlines()[5] + b"\n")

    assert within("attest", "prove", STUDENT, "--record", 5, "--out", proof).code == 0
    root = json.loads(proof.read_bytes())["root"]
    ran = within("attest", "check-record", record, proof, "--root", root, "--json")
    assert (ran.code, ran.json["verdict"]) == (0, "confirmed")
    assert within("attest", "check-record", record, proof, "--root", "0" * 64).code == 1
    record.write_bytes(record.read_bytes().replace(b"def", b"dfe"))
    assert within("attest", "check-record", record, proof, "--root", root).code == 1
    assert within("attest", "check-record", STUDENT, proof, "--root", root).code == 2
    assert within("attest", "check-record", record, STUDENT, "--root", root).code == 2


def test_one_file_of_a_data_set_is_proved_by_its_name(tmp_path):
    folder = a_model(tmp_path / "set")

    made = within("attest", "prove", folder, "--record", "config.json").json
    (tmp_path / "proof.json").write_text(json.dumps(made))
    check = ("attest", "check-record", folder / "config.json", tmp_path / "proof.json", "--root", made["root"])
    assert within(*check).code == 0
    (folder / "config.json").write_bytes(b"{}")
    assert within(*check).code == 1
    assert within("attest", "prove", folder, "--record", "absent").code == 2
    assert within("attest", "prove", STUDENT, "--record", "-1").code == 2
    assert within("attest", "prove", STUDENT, "--record", "99").code == 2
