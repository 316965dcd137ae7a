"""What a reviewer would otherwise have to look for."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.running import ROOT

SOURCES = sorted(path for folder in ("forgekit", "tests", "perf") for path in (ROOT / folder).rglob("*.py"))
LEFT_OVER = re.compile(r"NotImplementedError|\bTODO\b|\bFIXME\b|\bXXX\b|assert True\b|pytest\.skip\(\)")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_left_unfinished(path):
    if path.name == "test_house.py":
        return

    assert LEFT_OVER.findall(path.read_text()) == []


def test_the_constraints_pin_everything_and_bring_no_cuda():
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    assert not [line for line in lines if line.startswith(("nvidia", "triton", "cuda"))]


def test_every_dependency_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]

    assert [r for r in wanted if not r.startswith("forgekit[") and "<" not in r] == []
