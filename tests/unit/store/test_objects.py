"""An object is what its name says, or nobody gets it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.digest import Digest, sha256
from forgekit.errors import AbsentError, StoreError, TamperedError
from forgekit.store import bringing, refs
from forgekit.store.checking import fsck
from forgekit.store.objects import Store, digest_of, key_of, note_of, open_store
from forgekit.store.remote import RemoteStorage, open_storage
from forgekit.store.storage import LocalStorage
from tests.support.running import ROOT, without_catalog
from tests.support.store import Clock, a_store

DATA = b"some weights" * 3
NAME = sha256(DATA)


@pytest.fixture(params=["folder", "file", "memory"])
def store(request, tmp_path):
    urls = {"folder": str(tmp_path / "s"), "file": f"file://{tmp_path}/s", "memory": f"memory://{uuid.uuid4().hex}"}
    return Store(open_storage(urls[request.param]), Clock())


def written(store, key, data):
    """Put bytes where an object stands, as an accident would."""
    store.storage.write(key, data)


def kinds(store):
    return [(fault.kind, fault.where) for fault in fsck(store).faults]


def test_what_is_put_is_given_back_with_its_type_size_and_age(store, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(DATA)

    put = store.put_file(path, "weights")

    assert (put.digest, put.size) == (NAME, len(DATA))
    assert store.read(NAME) == DATA
    assert store.get(NAME, tmp_path / "out") == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA
    about = store.about(NAME)
    assert (about.type, about.size, about.origin, about.put_at) == ("weights", len(DATA), str(path), store.clock())
    assert list(store.objects()) == [(NAME, len(DATA))]
    assert fsck(store).faults == ()


def test_every_flipped_bit_is_caught_by_reading_and_by_fsck(tmp_path, store):
    store.put(DATA)
    for at in range(len(DATA)):
        hurt = bytearray(DATA)
        hurt[at] ^= 1 << at % 8
        written(store, key_of(NAME), bytes(hurt))

        with pytest.raises(TamperedError, match="not to its name"):
            store.read(NAME)
        with pytest.raises(TamperedError, match="not to its name"):
            store.get(NAME, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert kinds(store) == [("corrupt", key_of(NAME))]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60))
def test_other_bytes_under_a_name_are_never_given_out(data):
    store = Store(open_storage(f"memory://{uuid.uuid4().hex}"))
    store.put(DATA)
    written(store, key_of(NAME), data)

    if data == DATA:
        assert store.read(NAME) == DATA
    else:
        with pytest.raises(TamperedError):
            store.read(NAME)


def test_a_truncated_and_a_missing_object_are_caught(store, tmp_path):
    store.put(DATA)
    written(store, key_of(NAME), DATA[:-1])
    assert "35 bytes hash to" in fsck(store).faults[0].reason
    store.storage.delete(key_of(NAME))

    with pytest.raises(AbsentError, match="does not hold it"):
        store.read(NAME)
    with pytest.raises(AbsentError):
        store.get(NAME, tmp_path / "out")
    assert store.size(NAME) is None
    assert store.about(NAME).size == len(DATA)


@pytest.mark.parametrize(
    "key",
    ["objects/ab/short", f"objects/{NAME.hex}", f"objects/{NAME.hex[:2].upper()}x/{NAME.hex[3:]}", "objects/x/y/z"],
)
def test_a_misnamed_object_is_told_and_never_listed(store, key):
    written(store, key, DATA)

    assert kinds(store) == [("misnamed", key)]
    assert list(store.objects()) == []


def test_putting_again_heals_a_hurt_object_in_a_folder(tmp_path):
    store = a_store(tmp_path / "s")
    store.put(DATA)
    written(store, key_of(NAME), b"hurt")

    store.put(DATA)

    assert store.read(NAME) == DATA


def test_a_key_and_its_hash_say_the_same():
    assert digest_of(key_of(NAME), "objects") == digest_of(note_of(NAME), "about") == NAME
    assert digest_of(f"objects/{NAME.hex[:3]}/{NAME.hex[3:]}", "objects") is None
    assert digest_of(note_of(NAME).removesuffix(".json"), "about") is None


def test_an_expected_hash_that_differs_leaves_the_store_as_it_was(store, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(DATA)

    with pytest.raises(TamperedError, match="not to sha256:0000"):
        store.put_file(path, expected=Digest("0" * 64))

    assert list(store.objects()) == []


# --- links and copies -------------------------------------------------------------


def test_a_hard_link_is_made_when_asked_and_an_edit_of_the_file_is_caught(tmp_path):
    store, path = a_store(tmp_path / "s"), tmp_path / "w"
    path.write_bytes(DATA)
    put = store.put_file(path, link=True)
    assert put.how in ("link", "reflink")
    if put.how == "reflink":
        pytest.skip("this file system clones files, so nothing is shared")

    path.write_bytes(b"edited in place")

    with pytest.raises(TamperedError):
        store.read(NAME)
    assert kinds(store) == [("corrupt", key_of(NAME))]


def test_a_file_nobody_may_write_to_is_linked_and_any_other_is_not_shared(tmp_path):
    store, path = a_store(tmp_path / "s"), tmp_path / "w"
    path.write_bytes(DATA)
    assert store.put_file(path).how in ("copy", "reflink")
    inside = store.storage.root / key_of(NAME)
    assert inside.stat().st_ino != path.stat().st_ino
    assert inside.stat().st_mode & 0o222 == 0
    path.chmod(0o444)

    assert store.put_file(path).how in ("link", "reflink")

    assert store.put_file(path, link=True).digest == NAME  # the same file under both names already
    assert list(store.storage.listing("tmp")) == []


def test_a_file_larger_than_one_part_is_hashed_while_it_is_copied(tmp_path):
    store, path = a_store(tmp_path / "s"), tmp_path / "w"
    data = os.urandom(bringing.CHUNK + 17)
    path.write_bytes(data)
    seen = []

    put = store.put_file(path, progress=seen.append)

    assert put.digest == sha256(data)
    assert sum(seen) == len(data)
    assert store.fault(put.digest, len(data)) == ""


# --- what goes wrong ----------------------------------------------------------------


def test_links_pipes_and_folders_in_the_place_of_an_object_are_not_read(tmp_path):
    store = a_store(tmp_path / "s")
    store.put(DATA)
    place = store.storage.root / key_of(NAME)
    (tmp_path / "elsewhere").write_bytes(DATA)
    for make in (lambda: place.symlink_to(tmp_path / "elsewhere"), lambda: os.mkfifo(place), place.mkdir):
        place.unlink()
        make()

        with pytest.raises(StoreError):
            store.read(NAME)
        assert store.size(NAME) is None
        if not place.is_dir() or place.is_symlink():
            assert kinds(store) == [("misnamed", key_of(NAME))]


def test_what_is_no_plain_file_is_not_put(tmp_path):
    store = a_store(tmp_path / "s")
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError):
            store.put_file(path)
    assert list(store.objects()) == []


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x", "a\0b", ""])
def test_a_hostile_name_in_a_manifest_writes_nothing(tmp_path, name):
    store = a_store(tmp_path / "s")
    store.put(DATA)

    with pytest.raises(StoreError, match="is no name of a file below a folder"):
        store.get_all([("fine", NAME), (name, NAME)], tmp_path / "in" / "out")

    assert not (tmp_path / "in").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_folder_is_laid_out_whole_or_not_at_all_and_never_over_another(tmp_path):
    store = a_store(tmp_path / "s")
    store.put(DATA)
    rows = [("a", NAME), ("deep/er/b", NAME)]
    assert store.get_all(rows, tmp_path / "out") == 2
    assert (tmp_path / "out/deep/er/b").read_bytes() == DATA
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for target in ("out", "link"):
        with pytest.raises(StoreError, match="already"):
            store.get_all(rows, tmp_path / target)
    with pytest.raises(AbsentError):
        store.get_all([*rows, ("c", Digest("0" * 64))], tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out", "s"]


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a//b", "", "a b", "-a", "a/b/c/d/e", "é", "a" * 200])
def test_a_hostile_name_is_no_name_of_a_ref(name):
    with pytest.raises(StoreError, match="is no name for a store"):
        refs.checked_name(name)


FULL = """
import resource, sys
from pathlib import Path
from forgekit.store.objects import open_store
from forgekit.errors import StoreError
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put_file(Path(sys.argv[2]))
except StoreError as error:
    print(error)
"""


def test_a_full_disk_loses_nothing_and_says_what_to_do(tmp_path):
    store, path = a_store(tmp_path / "s"), tmp_path / "w"
    store.put(DATA)
    path.write_bytes(os.urandom(300_000))

    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "s"), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=without_catalog(),
        check=True,
    )

    assert ran.stdout.startswith("cannot write to the store: File too large\n")
    assert "make room and run the same command again" in ran.stdout
    assert list(store.objects()) == [(NAME, len(DATA))]
    assert list(store.storage.listing("tmp")) == list(store.storage.listing("leases")) == []
    assert fsck(store).faults == ()


class Full(RemoteStorage):
    """A bucket without room for objects."""

    def _path(self, key):
        if key.startswith("objects/") and self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._path(key)


def test_a_full_bucket_loses_nothing(tmp_path):
    root = f"/{uuid.uuid4().hex}"
    storage = Full(fsspec.filesystem("memory"), root, f"memory:/{root}")
    storage.full = False
    store = Store(storage)
    store.put(DATA)
    (tmp_path / "w").write_bytes(b"more")
    storage.full = True

    for put in (lambda: store.put(b"more"), lambda: store.put_file(tmp_path / "w")):
        with pytest.raises(StoreError, match="No space left on device"):
            put()

    storage.full = False
    assert store.read(NAME) == DATA
    assert list(store.objects()) == [(NAME, len(DATA))]
    assert fsck(store).faults == ()


def test_a_file_that_changes_while_it_is_uploaded_is_not_kept(tmp_path):
    store = open_store(f"memory://{uuid.uuid4().hex}")
    (tmp_path / "w").write_bytes(DATA)
    staged = store.storage.stage(tmp_path / "w")
    (tmp_path / "w").write_bytes(b"changed meanwhile")

    with pytest.raises(StoreError, match="changed while it was uploaded"):
        store.storage.commit(staged, key_of(NAME))

    assert list(store.objects()) == []


@pytest.mark.parametrize("url", ["nosuch://x/y", "s3-nobody-has://x"])
def test_a_url_nothing_opens_is_told(url):
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(url)


def test_opening_a_folder_loads_no_file_system_library():
    code = "import sys; from forgekit.store.objects import open_store; open_store('x'); print('fsspec' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert ran.stdout == "False\n"


def test_a_note_that_cannot_be_read_is_told_and_no_harm(tmp_path):
    store = Store(LocalStorage(tmp_path / "s"))
    store.put(DATA)
    for text in (b"", b"[]", b'{"type": 1}', b'{"type":"x","size":"many","origin":"","putAt":1e999}'):
        written(store, note_of(NAME), text)

        assert store.about(NAME) is None
        assert kinds(store) == [("note", note_of(NAME))]
        assert store.read(NAME) == DATA
