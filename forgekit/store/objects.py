"""Objects: put under the hash of their bytes, and never given out without hashing them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forgekit.checkpoint.writing import sync_folder
from forgekit.digest import CHUNK, HEX, Digest, Progress, is_plain_relative, sha256
from forgekit.errors import AbsentError, ForgeError, StoreError, TamperedError
from forgekit.store.bringing import How
from forgekit.store.leasing import Clock, leased
from forgekit.store.remote import hash_stream, open_storage
from forgekit.store.storage import Storage

OBJECTS, ABOUT = "objects", "about"
MANIFEST, LINK, RECIPE, RUN, BLOB = "manifest", "link", "recipe", "run", "blob"
SMALL = 64 << 20  # bytes that are read into memory at most
HURT = "forgekit store restore --from URL --verify"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What was noted when an object was put.

    Attributes:
        type: ``blob``, ``manifest``, ``link``, ``recipe``, ``run``, or a word of whoever put it.
        size: bytes.
        origin: file or URL it came from; empty where it was made in memory.
        put_at: seconds since 1970, UTC.
    """

    type: str
    size: int
    origin: str = ""
    put_at: float

    def render(self) -> bytes:
        return json.dumps({"type": self.type, "size": self.size, "origin": self.origin, "putAt": self.put_at}).encode()

    @classmethod
    def parse(cls, data: bytes) -> About | None:
        """None where it is not such a note: then nothing is known of the object but its bytes."""
        try:
            tree: Any = json.loads(data)
            return cls(
                type=str(tree["type"]), size=int(tree["size"]), origin=str(tree["origin"]), put_at=float(tree["putAt"])
            )
        except (ValueError, KeyError, TypeError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class Put:
    """An object that is now in the store."""

    digest: Digest
    size: int
    how: How


@dataclass(frozen=True)
class Store:
    """Content-addressed objects.

    Args:
        storage: where they lie.
        clock: seconds since 1970, UTC.
    """

    storage: Storage
    clock: Clock = field(default=time.time, compare=False)

    @property
    def url(self) -> str:
        return self.storage.url

    def put(self, data: bytes, type_: str = BLOB, *, origin: str = "") -> Digest:
        """Store bytes.

        Raises:
            StoreError: there is no room; nothing changed.
        """
        digest = sha256(data)
        with self.leased({digest}):
            self.place(digest, data, type_, origin=origin)
        return digest

    def place(self, digest: Digest, data: bytes, type_: str, *, origin: str = "") -> None:
        """``put`` for who has leased the hash already."""
        self._note(digest, type_, len(data), origin)
        self.storage.write(key_of(digest), data)

    def put_file(
        self,
        path: Path,
        type_: str = BLOB,
        *,
        link: bool = False,
        expected: Digest | None = None,
        origin: str = "",
        holding: contextlib.ExitStack | None = None,
        progress: Progress | None = None,
    ) -> Put:
        """Store a file.

        Args:
            link: a hard link will do. An edit of the file then breaks the object, which reading and fsck notice.
            expected: the hash it must have.
            origin: where it came from; the file itself where empty.
            holding: keeps collectors from the object until it is closed, not only until it is put.

        Raises:
            TamperedError: it has another hash than expected; nothing changed.
            StoreError: it cannot be read, or there is no room; nothing changed.
        """
        staged = self.storage.stage(path, link=link, progress=progress)
        try:
            if expected not in (None, staged.digest):
                raise TamperedError(f"the file hashes to {staged.digest}, not to {expected}", where=str(path))
            with contextlib.ExitStack() as own:
                (own if holding is None else holding).enter_context(self.leased({staged.digest}))
                self._note(staged.digest, type_, staged.size, origin or str(path.absolute()))
                self.storage.commit(staged, key_of(staged.digest))
        finally:
            self.storage.discard(staged)
        return Put(staged.digest, staged.size, staged.how)

    def read(self, digest: Digest, *, limit: int = SMALL) -> bytes:
        """The bytes of an object, hashed.

        Raises:
            AbsentError: the store does not hold it.
            TamperedError: what stands under its name is something else.
            StoreError: it has more than ``limit`` bytes.
        """
        size = self.size(digest)
        if size is not None and size > limit:
            raise StoreError(
                f"the object has {size:,} bytes, too many to be read at once", where=self.where(digest), hint="get it"
            )
        data = self.storage.read(key_of(digest))
        if sha256(data) != digest:
            raise self._tampered(digest, sha256(data))
        return data

    def get(self, digest: Digest, to: Path, *, progress: Progress | None = None) -> int:
        """Copy an object out; ``to`` appears when all of it was hashed. Gives its size.

        Raises:
            AbsentError: the store does not hold it.
            TamperedError: what stands under its name is something else; ``to`` is as it was.
            StoreError: ``to`` cannot be written.
        """
        aside = to.with_name(f".{to.name}.{os.getpid()}.partial")
        state, size = hashlib.sha256(), 0
        try:
            with self.storage.stream(key_of(digest)) as file, aside.open("wb", buffering=0) as out:
                while part := file.read(CHUNK):
                    state.update(part)
                    size += len(part)
                    view = memoryview(part)
                    while view:
                        view = view[out.write(view) :]
                    if progress is not None:
                        progress(len(part))
                if state.hexdigest() != digest.hex:
                    raise self._tampered(digest, Digest(state.hexdigest()))
                os.fsync(out.fileno())
            aside.replace(to)
            sync_folder(to.parent)
        except OSError as error:
            raise StoreError(f"cannot write the file: {error.strerror}", where=str(to)) from error
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
        return size

    def get_all(self, files: Iterable[tuple[str, Digest]], to: Path, *, progress: Progress | None = None) -> int:
        """Lay files out in a folder that does not exist yet; it appears when all are there. Gives how many.

        Raises:
            StoreError: the folder exists, or a name leads out of it.
            AbsentError: an object is missing.
            TamperedError: an object is something else.
        """
        rows = list(files)
        for name, _ in rows:
            if not is_plain_relative(name):
                raise StoreError(f"{name!r} is no name of a file below a folder; nothing was written", where=str(to))
        if to.exists() or to.is_symlink():
            raise StoreError("there is something of that name already", where=str(to), hint="name another folder")
        aside = to.with_name(f".{to.name}.{os.getpid()}.partial")
        try:
            aside.mkdir()
            for name, digest in rows:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                self.get(digest, aside / name, progress=progress)
            aside.rename(to)
        except OSError as error:
            raise StoreError(f"cannot write the folder: {error.strerror}", where=str(to)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return len(rows)

    def size(self, digest: Digest) -> int | None:
        """Bytes that stand under a hash; None where there are none."""
        return self.storage.size(key_of(digest))

    def fault(self, digest: Digest, size: int | None = None) -> str:
        """What is wrong with an object, all its bytes read; empty where nothing is."""
        try:
            with self.storage.stream(key_of(digest)) as file:
                found, length = hash_stream(file)
        except AbsentError:
            return "it is missing"
        except ForgeError as error:
            return error.what
        if found != digest:
            return f"its {length:,} bytes hash to {found}"
        if size is not None and length != size:
            return f"it has {length:,} bytes; {size:,} were recorded"
        return ""

    def about(self, digest: Digest) -> About | None:
        """What was noted when it was put, which outlives the bytes; None where nothing was."""
        try:
            return About.parse(self.storage.read(note_of(digest)))
        except AbsentError:
            return None

    def objects(self) -> Iterator[tuple[Digest, int]]:
        """(hash, size) of everything that stands under a well-formed name, in order; nothing is read."""
        for key, size in self.storage.listing(OBJECTS):
            digest = digest_of(key, OBJECTS)
            if digest is not None and size >= 0:
                yield digest, size

    def held(self) -> dict[bytes, int]:
        """Size by raw hash of every object: what an audit looks things up in. 32 bytes are half of 64 digits."""
        return {bytes.fromhex(digest.hex): size for digest, size in self.objects()}

    def leased(self, digests: Iterable[Digest]) -> contextlib.AbstractContextManager[None]:
        """Keep collectors from these objects until the block ends."""
        return leased(self.storage, frozenset(digest.hex for digest in digests), self.clock)

    def where(self, digest: Digest) -> str:
        return f"{self.url}/{key_of(digest)}"

    def _note(self, digest: Digest, type_: str, size: int, origin: str) -> None:
        """Written before the object: bytes without a note would have no age."""
        about = About(type=type_, size=size, origin=origin, put_at=self.clock())
        self.storage.write(note_of(digest), about.render())

    def _tampered(self, digest: Digest, found: Digest) -> TamperedError:
        return TamperedError(f"the object hashes to {found}, not to its name", where=self.where(digest), hint=HURT)


def open_store(url: str) -> Store:
    """The store at a path or URL; a folder is made when something is put.

    Raises:
        StoreError: the URL cannot be opened.
    """
    return Store(open_storage(url))


def key_of(digest: Digest) -> str:
    return f"{OBJECTS}/{digest.hex[:2]}/{digest.hex[2:]}"


def note_of(digest: Digest) -> str:
    return f"{ABOUT}/{digest.hex[:2]}/{digest.hex[2:]}.json"


def digest_of(key: str, room: str) -> Digest | None:
    """The hash a key stands for; None where the key is not one this store would have made."""
    parts = key.removesuffix(".json" if room == ABOUT else "").split("/")
    digits = "".join(parts[1:])
    if len(parts) != 3 or parts[0] != room or len(parts[1]) != 2 or len(digits) != 64 or not HEX.issuperset(digits):
        return None
    digest = Digest(digits)
    return digest if (note_of if room == ABOUT else key_of)(digest) == key else None
