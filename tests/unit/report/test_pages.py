"""Report pages: self-contained, well-formed, worst news first, and harmless whatever an alloy says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from forgekit.errors import AlloyError
from forgekit.findings import Claim, Finding, Verdict
from forgekit.report.html import write_pages
from forgekit.verify import Report

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "circle", "rect"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><svg onload=alert(1)>",
    "&lt;b&gt;",
    "\u202edesrever\u2066",
    "\x1b[31m\x00",
    "x" * 10_000,
)


TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "section", "h1", "h2", "p"),
    *("a", "div", "span", "b", "code", "pre", "details", "summary", "dl", "dt", "dd", "ul", "li", "small"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Page(HTMLParser):
    """Checks nesting as it reads, and collects what a test may ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.shown, self.scripts = [], [], [], [], [], []
        self.attributes = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, tag
            assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.shown).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.shown).split())


def finding(verdict, artifact="lab/x", pointer="/a", text="", **more):
    claim = Claim(artifact=artifact, kind="score", pointer=pointer, tier=4, expected=text or 1.5)
    return Finding(
        claim=claim, verdict=verdict, reason=text or verdict.value, observed=text or 2, fix=text or "x: y", **more
    )


def a_report(name="lab/x", text="", **more):
    findings = tuple(
        finding(verdict, name, f"/{verdict.value}", text)
        for verdict in (Verdict.CONFIRMED, Verdict.UNCHECKED, Verdict.UNPROVEN, Verdict.REFUTED)
    )
    made = {"alloy_name": "x.alloy.json", "alloy_hash": "a" * 64, "findings": findings, "title": text or name}
    return Report(name=name, description=text, base_model=text, **(made | more))


def pages(folder, *reports, gaps=None, title="Catalog"):
    write_pages(folder, reports, gaps or {}, title)
    return {path.name: Page(path.read_text()) for path in folder.iterdir()}


def test_pages_are_well_formed_and_reach_each_other(tmp_path):
    made = pages(tmp_path, a_report("lab/x"), a_report("lab/y"))

    assert set(made) == {"index.html", "lab--x.html", "lab--y.html"}
    for page in made.values():
        for link in page.links:
            assert link.startswith("#") or (tmp_path / unquote(link.partition("#")[0])).is_file()
        assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    pages(tmp_path, a_report())

    for path in tmp_path.iterdir():
        text = path.read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
        assert "@import" not in text
        assert "url(" not in text


def test_pages_fit_a_phone_and_a_dark_room(tmp_path):
    pages(tmp_path, a_report())

    for path in tmp_path.iterdir():
        text = path.read_text()
        assert '<meta name="viewport" content="width=device-width' in text
        assert "prefers-color-scheme: dark" in text
        assert '<html lang="en"' in text


def test_refuted_and_unproven_come_first(tmp_path):
    text = pages(tmp_path, a_report())["lab--x.html"].text

    places = [text.index(f"/{verdict} claims") for verdict in ("refuted", "unproven", "unchecked", "confirmed")]
    assert places == sorted(places)


def test_a_finding_shows_what_was_claimed_and_observed_and_how_to_check_it_again(tmp_path):
    page = pages(tmp_path, a_report())["lab--x.html"].text

    for text in ("claimed 1.5", "observed 2", "because refuted", "fix x: y", "forgekit verify lab/x --only '/refuted'"):
        assert text in page


def test_a_known_gap_says_that_it_is_known(tmp_path):
    made = pages(tmp_path, a_report(), gaps={"lab/x::/refuted": "on purpose"})

    assert "known on purpose" in made["lab--x.html"].text


def test_an_artifact_that_cannot_be_read_has_a_page_that_says_why(tmp_path):
    made = pages(
        tmp_path,
        Report(name="lab/x", error=AlloyError("the document is empty", where="x.alloy.json")),
        a_report("lab/y"),
    )

    assert "the document is empty" in made["lab--x.html"].text
    assert "lab/y" in made["index.html"].text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_an_alloy_says_stays_text(tmp_path, text):
    made = pages(
        tmp_path / "a", a_report(text=text, title=text), a_report(name=text[:100].replace("\0", "")), title=text
    )
    plain = pages(tmp_path / "b", a_report(), a_report(name="lab/y"))

    for name in ("index.html", "lab--x.html"):
        assert set(made[name].tags) <= TAGS
        assert made[name].scripts == plain[name].scripts
        assert not [key for key, _ in made[name].attributes if key.startswith("on")]
        assert not [link for link in made[name].links if ":" in link]
        raw = (tmp_path / "a" / name).read_text()
        assert "\x1b" not in raw
        assert "\u202e" not in raw


def test_names_that_come_to_the_same_file_get_different_ones(tmp_path):
    names = ["lab/x", "lab--x", "LAB/x", "index", "///", "../..", "lab/x"]

    made = pages(tmp_path, *(a_report(name) for name in names))

    assert len(made) == len(names) + 1
    assert len({name.casefold() for name in made}) == len(made)
    assert all(Path(name).name == name for name in made)


def test_an_empty_catalog_is_a_page_too(tmp_path):
    assert "index.html" in pages(tmp_path)


def a_cell(runtime, verdict, text="fits", **evidence):
    return {
        "runtime": runtime,
        "form": text,
        "precision": "Q8_0",
        "verdict": verdict,
        "reason": text,
        "foretold": [{"invariant": "square-attention"}],
        "surprise": None,
        "evidence": evidence,
    }


def ran_report(text="fits"):
    claim = Claim(artifact="lab/x", kind="runtime", pointer="/target/runtimes/0", tier="runtime", expected="mlx")
    measured = {"loadSeconds": 1.25, "peakMemoryMiB": 2048, "tokensPerSec": 61.4, "engine": "mlx-lm", "version": "0.32"}
    cells = [a_cell("mlx", "confirmed", text, **measured), a_cell("llama_cpp", "refuted", text)]
    device = Claim(
        artifact="lab/x", kind="hardware", pointer="/results/hardwareVerified/0", tier="runtime", expected="Phone"
    )
    findings = (
        Finding(claim=claim, verdict=Verdict.CONFIRMED, reason="ok", evidence={"runtime": "mlx", "cells": cells}),
        Finding(claim=device, verdict=Verdict.UNCHECKED, reason="only a Phone", evidence={"claimed": {"vramGb": 8}}),
    )
    return Report(name="lab/x", findings=findings)


def test_runtimes_stand_in_a_grid_and_in_full_on_the_artifact_s_page(tmp_path):
    made = pages(tmp_path, ran_report(), a_report("lab/y"))

    assert "Runtimes" in made["index.html"].text
    for text in ("llama_cpp", "mlx", "1.25 s", "2,048 MiB"):
        assert text in made["index.html"].text
        assert text in made["lab--x.html"].text
    for text in ("61", "mlx-lm 0.32", "foretold: square-attention", "Phone", "vramGb 8"):
        assert text in made["lab--x.html"].text
    assert 'id="runtimes"' not in (tmp_path / "lab--y.html").read_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_an_engine_says_stays_text(tmp_path, text):
    made = pages(tmp_path, ran_report(text))

    for page in made.values():
        assert set(page.tags) <= TAGS
