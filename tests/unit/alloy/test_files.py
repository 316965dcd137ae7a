from __future__ import annotations

import os
import subprocess

import pytest

from forgekit.alloy.files import write_atomically
from forgekit.errors import SourceError


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")

    assert path.read_bytes() == b"two"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        write_atomically(small / "a", b"old")
        with pytest.raises(SourceError, match="cannot write the file: No space left on device"):
            write_atomically(small / "a", bytes(1 << 20))

        assert (small / "a").read_bytes() == b"old"
        assert [found.name for found in small.iterdir()] == ["a"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
