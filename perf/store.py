"""The store against ``cp`` and ``sha256sum``, and audits of a catalog of ten thousand artifacts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from forgekit.alloy import write
from forgekit.digest import Digest, manifest, sha256, sha256_file
from forgekit.store.chain import Held, Link
from forgekit.store.objects import key_of

HERE = Path(__file__).parent
MIB = 1 << 20
SIZE = 1024  # MiB
ARTIFACTS, STAGES = 10_000, 8


def throughput() -> Iterator[str]:
    """Put, get and check 1 GiB, from the page cache and flushed to disk, as their peers are."""
    from run import FORGEKIT, Cost, alternate, median, row, run

    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        folder = Path(scratch)
        path, store = folder / "weights", folder / "s"
        with path.open("wb") as file:
            for _ in range(SIZE):
                file.write(os.urandom(MIB))
        digest = sha256_file(path)

        def cleared(*names: str) -> None:
            for name in names:
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
            subprocess.run(["sync"], check=True)

        def ours(*arguments: str, drop: str = "") -> Cost:
            cleared(*([drop] if drop else []))
            return run([*FORGEKIT, "store", *arguments, "--store", str(store)])

        def copied() -> Cost:
            cleared("copy")
            return run(["sh", "-c", f"sha256sum {path} && cp {path} {folder}/copy && sync {folder}/copy"])

        def told(what: str, one: list[Cost], other: list[Cost], goal: str = "") -> str:
            rate = SIZE / median(one), SIZE / median(other)
            return row(what, f"{rate[0]:.0f} MiB/s", f"{rate[1]:.0f} MiB/s", f"{rate[0] / rate[1]:.2f}× the rate", goal)

        put = alternate(lambda: ours("put", str(path), drop="s"), copied, 3)
        yield told("`store put` of 1 GiB / `sha256sum`, `cp` and `sync`", *put)
        got = alternate(lambda: ours("get", str(digest), "--to", str(folder / "out"), drop="out"), copied, 3)
        yield told("`store get` of 1 GiB, verified / `sha256sum`, `cp` and `sync`", *got)
        checked = alternate(lambda: ours("fsck"), lambda: run(["sha256sum", str(path)]), 3)
        yield told("`store fsck` of 1 GiB / `sha256sum`", *checked)
        path.chmod(0o444)
        linked = alternate(lambda: ours("put", str(path), drop="s"), lambda: run(["sha256sum", str(path)]), 3)
        yield told("`store put` of a read-only file of 1 GiB, linked / `sha256sum`", *linked)


def audits() -> Iterator[str]:
    """Every chain of 10,000 artifacts in eight stages: as alloys of a catalog, and as recorded links."""
    from run import FORGEKIT, median, row, run

    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        folder = Path(scratch)
        synthetic(folder)
        full, bare = folder / "full", folder / "bare"
        bare.mkdir()
        (bare / "objects").symlink_to(full / "objects")  # the same objects, and nothing recorded of them
        asked = {
            "as alloys of a catalog": ["--store", str(bare), "--catalog", str(folder / "cat")],
            "as published chains of a store": ["--store", str(full)],
        }
        for what, arguments in asked.items():
            command = [*FORGEKIT, "store", "audit", "--json", *arguments]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["summary"]
            assert found["sound"] == found["chains"] == ARTIFACTS, found
            wall = median([run(command) for _ in range(3)])
            memory = run(command, watch=True).memory
            yield row(
                f"audit of {ARTIFACTS:,} artifacts in {STAGES} stages, {what}",
                f"{wall:.1f} s, {memory / MIB:.0f} MiB",
                "none",
                f"{ARTIFACTS * STAGES / wall:,.0f} stages/s",
                "< 10 s, < 300 MB",
            )


def synthetic(folder: Path) -> None:
    """A catalog of alloys, and a store with every artifact they name, recorded and published."""
    for first in range(256):
        (folder / "full" / "objects" / f"{first:02x}").mkdir(parents=True)
    (folder / "full/refs/links").mkdir(parents=True)
    for number in range(ARTIFACTS):
        name, rows, head, before = f"lab/artifact-{number:05d}", [], None, None
        for stage in range(STAGES):
            data = f"{number} {stage}".encode()
            digest = put(folder, data)
            listed = put(folder, manifest([("model.safetensors", digest.hex)]))
            link = Link(
                chain=name,
                index=stage,
                stage=f"stage-{stage}",
                retention="permanent",
                files=(Held("model.safetensors", digest, len(data)),),
                parent=head,
                parent_artifact=before,
            )
            row = {"stage": stage, "type": link.stage, "outputHash": str(listed), "retention": "permanent"}
            rows.append(row | ({"inputHash": str(before)} if before else {}))
            head, before = put(folder, link.render()), listed
            (folder / f"full/refs/links/{head.hex}.json").write_bytes(b"{}")
        published = folder / f"full/refs/published/{name}"
        published.mkdir(parents=True)
        (published / f"{head.hex}.json").write_bytes(b"{}")
        integrity = {"modelHash": str(before), "trustLevel": "self-attested"}
        tree = {"name": name, "version": "1.0.0", "source": {"baseModel": "lab/base"}, "stages": rows}
        entry = folder / "cat" / name
        entry.mkdir(parents=True)
        (entry / "x.alloy.json").write_bytes(write(tree | {"results": {"stages": rows, "integrity": integrity}}))


def put(folder: Path, data: bytes) -> Digest:
    """An object as the store would have it, without what makes each one safe: this is only scenery."""
    digest = sha256(data)
    (folder / "full" / key_of(digest)).write_bytes(data)
    return digest


def store() -> Iterator[str]:
    yield from throughput()
    yield from audits()
