"""``forgekit store audit``: chains of the store and of catalogs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import Json, open_catalogs, print_json
from forgekit.cli.storing import At, Verify, leave, opened_at, there, url_of
from forgekit.digest import Digest
from forgekit.errors import ForgeError

if TYPE_CHECKING:
    from forgekit.sources.catalog import Catalog
    from forgekit.store.audit import Audited


def audit(
    catalog: Annotated[
        list[str] | None, typer.Option("--catalog", metavar="DIR", help="Audit the alloys of a catalog; repeatable.")
    ] = None,
    verify: Verify = False,
    store: At = None,
    as_json: Json = False,
) -> None:
    """Walk every chain: whatever it rests on can be had by content, or the break is named."""
    found = list(_audited(store, catalog, verify=verify))
    broken = [one for chain in found for one in chain.breaks]
    if as_json:
        rows = [_chain_row(chain) for chain in found]
        counts = {
            "chains": len(found),
            "sound": sum(chain.sound for chain in found),
            "broken": sum(bool(chain.breaks) for chain in found),
            "unproven": sum(bool(chain.unproven) and not chain.breaks for chain in found),
        }
        print_json({"schema": "forgekit.store.audit/1", "summary": counts, "chains": rows})
    else:
        for chain in found:
            for line in chain.breaks:
                typer.echo(f"broken    {line}")
            for said in chain.unproven:
                typer.echo(f"unproven  {chain.chain}: {said}")
            if chain.sound:
                typer.echo(
                    f"sound     {chain.chain}: {chain.stages} stages{'' if chain.published else ', unpublished'}"
                )
        typer.echo(f"{len(found)} chains, {len(broken)} breaks", err=True)
    leave(broken=bool(broken), nothing=not any(chain.sound for chain in found))


def _audited(store: str | None, catalogs: list[str] | None, *, verify: bool) -> Iterator[Audited]:
    from forgekit.store.audit import of_store
    from forgekit.store.catalogs import Shelf
    from forgekit.store.catalogs import audit as of_alloys

    opened = opened_at(store) if store or not catalogs else there(url_of(None))
    held = opened.held() if opened else {}
    if opened is not None:
        yield from of_store(opened, verify=verify, held=held)
    if catalogs:
        folders = open_catalogs(catalogs)
        shelf = Shelf(opened, held, _Alloys(folders), verify)
        for folder in folders:
            for one in _listed(folder):
                yield one if not _is_listed(one) else next(of_alloys([one], shelf))


class _Alloys:
    """The alloys of catalogs by their hash; read when the first is asked for."""

    def __init__(self, catalogs: list[Catalog]) -> None:
        self.catalogs = catalogs
        self.known: frozenset[str] | None = None

    def __call__(self, digest: Digest) -> bool:
        if self.known is None:
            self.known = frozenset(self._hashes())
        return digest.hex in self.known

    def _hashes(self) -> Iterator[str]:
        from forgekit.digest import sha256_file
        from forgekit.sources.catalog import Broken

        for catalog in self.catalogs:
            for entry in catalog.entries():
                if not isinstance(entry, Broken):
                    yield sha256_file(entry.root / entry.alloy_name).hex


def _listed(catalog: Catalog) -> Iterator[Any]:
    """Each entry as the audit takes it; one that cannot be read is a broken chain at once."""
    from forgekit.sources.catalog import Broken
    from forgekit.store.audit import Audited, Break
    from forgekit.store.catalogs import Listed

    for entry in catalog.entries():
        try:
            if isinstance(entry, Broken):
                raise entry.error
            hashes = [file.sha256 for file in entry.pin.files if file.sha256] if entry.pin else []
            yield Listed(entry.name, entry.alloy(), frozenset(hashes), entry.where(entry.alloy_name))
        except ForgeError as error:
            told = Break(chain=entry.name, stage="alloy", missing=None, reason=error.what, last_seen=error.where)
            yield Audited(chain=entry.name, stages=0, breaks=(told,))


def _is_listed(one: Any) -> bool:
    from forgekit.store.catalogs import Listed

    return isinstance(one, Listed)


def _chain_row(chain: Audited) -> dict[str, Any]:
    return {
        "chain": chain.chain,
        "stages": chain.stages,
        "published": chain.published,
        "verdict": "broken" if chain.breaks else "unproven" if chain.unproven else "sound",
        "breaks": [one.tree() for one in chain.breaks],
        "unproven": list(chain.unproven),
    }
