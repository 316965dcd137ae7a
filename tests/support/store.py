"""Stores and chains for tests: small, quick, and able to be killed at any step."""

from __future__ import annotations

import json
from pathlib import Path

from forgekit.store import chain, recipes
from forgekit.store.objects import Store, key_of
from forgekit.store.storage import LocalStorage

HOUR = 3600.0


class Clock:
    """Time that moves by ``tick`` seconds when it is asked, and else when a test moves it."""

    def __init__(self, now: float = 1_790_000_000.0, tick: float = 0.0) -> None:
        self.now = now
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class Crash(BaseException):
    """What kill -9 is to a test in one process: no handler may catch it."""


class Fuse:
    """Stops a storage at its nth step; after that nothing it does reaches the disk, clean-up least of all."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.during = None
        self.seen: list[tuple[str, str]] = []

    def __call__(self, what: str, key: str) -> None:
        self.seen.append((what, key))
        if self.during is not None and self.left == 0:
            act, self.during, self.left = self.during, None, None
            act()
        if self.left is None:
            return
        if self.left == 0:
            raise Crash(what, key)
        self.left -= 1

    def burn(self, act, after: int):
        """Run ``act`` until its step number ``after``; gives whether it was stopped."""
        self.left = after
        try:
            act()
        except Crash:
            return True
        finally:
            self.left = None
        return False


def a_store(folder: Path, *, clock: Clock | None = None, step=lambda _what, _key: None) -> Store:
    return Store(LocalStorage(folder, durable=False, step=step), clock or Clock())


def a_recipe(name: str = "ember", version: str = "1.0.0", parent: str | None = None) -> bytes:
    tree = {"name": name, "version": version, "source": {"baseModel": "lab/base"}, "stages": [{"type": "prune"}]}
    return json.dumps(tree | ({"parentRecipeId": parent} if parent else {})).encode()


STAGES = (
    ("source", "permanent"),
    ("prune", "until-superseded-and-attested"),
    ("train", "permanent"),
    ("quant", "permanent"),
)


def a_chain(store: Store, work: Path, *, name: str = "lab/ember", stages=STAGES, run: bytes | None = None):
    """A chain as a forge leaves it: two shards and a piece of evidence per stage. Gives the links, first to last."""
    work.mkdir(parents=True, exist_ok=True)
    recipe = recipes.add(store, a_recipe())
    links = []
    for index, (stage, retention) in enumerate(stages):
        files = {}
        for shard in (1, 2):
            path = work / f"{name.replace('/', '-')}-{index}-{shard}"
            path.write_bytes(f"{name} {stage} {index} shard {shard}".encode() * 9)
            files[f"model-{shard:05d}-of-00002.safetensors"] = path
        kept = work / f"{name.replace('/', '-')}-{index}-map.json"
        kept.write_bytes(f"{name} evidence of {index}".encode())
        links.append(
            chain.append(
                store,
                chain=name,
                stage=stage,
                retention=retention,
                files=files,
                evidence={f"forge/{index:02d}/map.json": kept},
                after=links[-1] if links else None,
                run=run if index == len(stages) - 1 else None,
                recipe=recipe.digest,
            )
        )
    return links


def delete_by_hand(store: Store, digest) -> None:
    (store.storage.root / key_of(digest)).unlink()
