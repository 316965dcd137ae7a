"""Artifacts on the Hugging Face Hub. The only module that opens a socket.

Through ``huggingface_hub``, so ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``
and its cache mean what they always mean. Weights are never downloaded: their
SHA-256 is in the listing, and headers are read by range.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from forgekit import alloy, digest
from forgekit.alloy import Alloy
from forgekit.alloy.files import write_atomically
from forgekit.alloy.pointer import walk
from forgekit.errors import AbsentError, ForgeError, SourceError, TamperedError, UnreachableError
from forgekit.sources import ALLOY_NAME, ALLOY_SUFFIX, SMALL, WEIGHTS, FileRecord, checked, pick_alloy
from forgekit.sources.catalog import Catalog
from forgekit.sources.pins import PIN_NAME, Pin

T = TypeVar("T")
TARGET = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?/?")
ORGANISATION = re.compile(r"hf://(?P<org>[\w.-]+)/?")
TRIES = 3
BUSY = frozenset({429, 500, 502, 503, 504})
MOVED_ON = (409, 412)  # what the Hub answers where a commit is not on top of the newest


class HubSource:
    """One model repository at one commit.

    Args:
        repo: ``org/name``.
        revision: branch, tag or commit; the default branch where None.
        offline: do not use the network.
    """

    def __init__(self, repo: str, revision: str | None = None, *, offline: bool = False) -> None:
        self.name = repo
        self.asked_revision = revision
        self.offline = offline
        self._known: Pin | None = None

    @classmethod
    def at(cls, pin: Pin) -> HubSource:
        """The repository as it was pinned, without asking for its listing again."""
        source = cls(pin.repo, pin.revision)
        source._known = pin
        return source

    @classmethod
    def parse(cls, target: str, *, offline: bool = False) -> HubSource:
        """Read ``hf://org/name[@revision]``.

        Raises:
            SourceError: it is not of that form.
        """
        found = TARGET.fullmatch(target)
        if found is None:
            raise SourceError(f"{target!r} is not hf://org/name[@revision]")
        return cls(found["repo"], found["revision"], offline=offline)

    @property
    def revision(self) -> str | None:
        if self._known is not None:
            return self._known.revision
        return str(self._info.sha) if self._info.sha else None

    def alloy(self) -> Alloy:
        path = self.alloy_name
        return alloy.read(self.fetch(path).read_bytes(), where=self.where(path))

    @cached_property
    def alloy_name(self) -> str:
        return pick_alloy([path for path in self.listing() if "/" not in path], self.where(""))

    def listing(self) -> Mapping[str, FileRecord]:
        return self._listed

    def fetch(self, path: str) -> Path:
        """Download a small file into the Hub cache and hold it to the digest the Hub lists for it.

        Raises:
            AbsentError: the repository has no such file.
            UnreachableError: it is too large to fetch, or the Hub does not answer.
            TamperedError: the bytes are not the ones the Hub lists.
        """
        import huggingface_hub as hf

        record = self.listing().get(checked(path, self.where("")))
        if record is None:
            raise AbsentError(f"the repository has no file {path}", where=self.where(""))
        if path.endswith(WEIGHTS) or (record.size or 0) > SMALL:
            raise UnreachableError(f"{path}, {record.size or 0:,} bytes, is not downloaded", where=self.where(path))
        with self._told(path):
            local = _patiently(lambda: hf.hf_hub_download(self.name, path, revision=self.revision))
        _hold(Path(local), record, self.where(path))
        return Path(local)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        import huggingface_hub as hf
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        if checked(path, self.where("")) not in self.listing():
            raise AbsentError(f"the repository has no file {path}", where=self.where(""))
        with self._told(path):
            url = hf.hf_hub_url(self.name, path, revision=self.revision)
            headers = build_hf_headers() | {"Range": f"bytes={start}-{start + size - 1}"}

            def ask() -> bytes:
                answer = hf.get_session().get(url, headers=headers, follow_redirects=True, timeout=30)
                hf_raise_for_status(answer)
                return bytes(answer.content if answer.status_code == 206 else answer.content[start : start + size])

            return _patiently(ask)

    def where(self, path: str) -> str:
        revision = f"@{self.asked_revision}" if self.asked_revision else ""
        return f"hf://{self.name}{revision}" + (f"/{path}" if path else "")

    @cached_property
    def _info(self) -> Any:
        import huggingface_hub as hf
        from huggingface_hub import constants

        if self.offline or constants.HF_HUB_OFFLINE:
            raise UnreachableError(
                "this run is offline", where=self.where(""), hint="pull it into a catalog first, or drop --offline"
            )
        with self._told(""):
            return _patiently(
                lambda: hf.HfApi().model_info(self.name, revision=self.asked_revision, files_metadata=True, timeout=30)
            )

    @cached_property
    def _listed(self) -> dict[str, FileRecord]:
        records = self._known.files if self._known is not None else _records(self._info)
        return {record.path: record for record in records}

    def _told(self, path: str) -> contextlib.AbstractContextManager[None]:
        return _translated(self.where(path))


def _records(info: Any) -> Iterator[FileRecord]:
    commit = (info.sha or "")[:12]
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        yield FileRecord(
            path=sibling.rfilename,
            size=sibling.size,
            sha256=lfs.sha256 if lfs else None,
            git_sha1=None if lfs else sibling.blob_id,
            told_by=f"the Hub's listing at {commit}" if commit else "the Hub's listing",
        )


def _hold(local: Path, record: FileRecord, where: str) -> None:
    """Compare fetched bytes with what the Hub lists of them."""
    if record.sha256:
        found = digest.sha256_file(local).hex
        if found != record.sha256:
            raise TamperedError(f"the Hub lists sha256 {record.sha256} and serves bytes of {found}", where=where)
    elif record.git_sha1:
        data = local.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if found != record.git_sha1:
            raise TamperedError(f"the Hub lists git blob {record.git_sha1} and serves bytes of {found}", where=where)


def _patiently(call: Callable[[], T]) -> T:
    """Call, and again a little later where the Hub says it is busy."""
    from huggingface_hub import errors

    for attempt in range(TRIES):
        try:
            return call()
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status not in BUSY or attempt == TRIES - 1:
                raise
            asked = error.response.headers.get("Retry-After", "")
            time.sleep(min(float(asked), 5.0) if asked.isdecimal() else 0.5 * 2**attempt)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """The Hub client's many errors as the two that matter here: it is not there, or it cannot be reached."""
    from huggingface_hub import errors

    try:
        yield
    # the client also calls "absent" what is only absent from its cache: that comes before the real absences
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise UnreachableError(f"the Hub cannot be reached: {_root_cause(error)}", where=where) from error
    except errors.GatedRepoError as error:
        raise UnreachableError(
            "the repository is gated", where=where, hint="ask for access and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise AbsentError(
            "there is no such repository, or it is private",
            where=where,
            hint="check the name; set HF_TOKEN if it is private",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise AbsentError("the repository has no such revision", where=where) from error
    except errors.EntryNotFoundError as error:
        raise AbsentError("the repository has no such file", where=where) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise UnreachableError(f"the Hub answers {status}", where=where, hint=_hint(status)) from error
    except ForgeError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in {
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "urllib3",
        } or isinstance(error, OSError):
            raise UnreachableError(f"the Hub cannot be reached: {error}", where=where) from error
        raise


def _root_cause(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _hint(status: object) -> str:
    if status in (401, 403):
        return "set HF_TOKEN to a token that may read it"
    return "try again later" if status in BUSY else ""


def commit_files(source: HubSource, files: Mapping[str, bytes], title: str) -> str:
    """Write files in one commit on top of the revision that was read; gives the commit's address.

    Raises:
        UnreachableError: the Hub refuses, or does not answer; nothing was written. So it is where somebody else has
            committed since the listing was read.
    """
    import huggingface_hub as hf
    from huggingface_hub import errors

    operations = [hf.CommitOperationAdd(path_in_repo=path, path_or_fileobj=files[path]) for path in sorted(files)]
    revision = source.asked_revision or "main"
    with _translated(source.where("")):
        try:
            made = hf.HfApi().create_commit(
                source.name, operations, commit_message=title, revision=revision, parent_commit=source.revision
            )
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in MOVED_ON:
                raise UnreachableError(
                    "somebody else has committed meanwhile, and nothing was written",
                    where=source.where(""),
                    hint="look at what changed, and ask again",
                ) from error
            if status in (401, 403):
                hint = "set HF_TOKEN to a token that may write to it"
                raise UnreachableError("the Hub does not let you write", where=source.where(""), hint=hint) from error
            raise
    return str(made.commit_url)


# --- pinning ----------------------------------------------------------------


def repositories(organisation: str) -> list[str]:
    """Names of an organisation's model repositories, sorted.

    Raises:
        SourceError: the Hub does not answer, or there is no such organisation.
    """
    import huggingface_hub as hf

    where = f"hf://{organisation}"
    with _translated(where):
        found = _patiently(lambda: sorted(model.id for model in hf.HfApi().list_models(author=organisation)))
    if not found:
        raise AbsentError("there are no model repositories", where=where)
    return found


def pin_of(source: HubSource) -> Pin:
    """What the Hub lists of an artifact now."""
    files = tuple(sorted(source.listing().values(), key=lambda file: file.path))
    return Pin(
        repo=source.name,
        revision=source.revision or "",
        alloy=source.alloy_name,
        alloy_hash=source.alloy().hash,
        files=files,
        retrieved_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def has_alloy(source: HubSource) -> bool:
    return any(path.endswith(ALLOY_SUFFIX) or path == ALLOY_NAME for path in source.listing() if "/" not in path)


def pin_into(catalog: Catalog, source: HubSource, pin: Pin | None = None) -> Pin:
    """Put an artifact's alloy, evidence and listing into a catalog; all of it or nothing.

    Raises:
        SourceError: something it needs cannot be fetched or written.
    """
    pin = pin or pin_of(source)
    with catalog.stage(source.name) as stage:
        for path in sorted(_evidence(source)):
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source.fetch(path), target)
            except OSError as error:
                raise SourceError(f"cannot write {path}: {error.strerror}", where=str(catalog.root)) from error
        write_atomically(stage / PIN_NAME, pin.render())
        catalog.put(source.name, stage)
    return pin


def _evidence(source: HubSource) -> set[str]:
    """Small files worth pinning: the alloy, the card, configs, and everything the alloy names."""
    listing = source.listing()
    named = {value for _, value in walk(source.alloy().tree) if isinstance(value, str) and value in listing}
    wanted = (
        named | {source.alloy_name} | ({"README.md", "config.json", "model.safetensors.index.json"} & listing.keys())
    )
    return {path for path in wanted if (listing[path].size or 0) <= SMALL and not path.endswith(WEIGHTS)}


def behind(pin: Pin) -> HubSource:
    """The repository a pin was taken from, at its newest."""
    return HubSource(pin.repo)


__all__ = [
    "HubSource",
    "behind",
    "has_alloy",
    "pin_into",
    "pin_of",
    "repositories",
]
