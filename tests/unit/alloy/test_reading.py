from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit import alloy
from forgekit.alloy import reading
from forgekit.errors import AbsentError, AlloyError
from tests.support.builders import an_alloy
from tests.support.running import EMBEDDED, within


def error_of(data: bytes) -> str:
    with pytest.raises(AlloyError) as caught:
        alloy.read(data, where="x.alloy.json")
    return str(caught.value)


def test_an_empty_file_says_so():
    assert error_of(b"  \n") == "the document is empty\n  in   x.alloy.json, line 2, column 1"


def test_what_is_not_json_says_where():
    assert error_of(b'{"name": forge}') == (
        "the document is not JSON: expecting value\n  in   x.alloy.json, line 1, column 10"
    )


@pytest.mark.parametrize("cut", [20, 60, -4])
def test_a_truncated_document_says_it_was_cut(cut):
    data = alloy.write(an_alloy())[:cut]

    assert error_of(data).startswith(f"the document ends in the middle, after {len(data):,} bytes: ")


def test_a_document_larger_than_any_alloy_is_not_parsed():
    data = b'{"name": "' + b"x" * (200 << 20) + b'"}'

    assert error_of(data) == (
        "the document is 200 MiB; an alloy has at most 16 MiB\n  in   x.alloy.json\n"
        "  try  weights, samples and corpora are referenced by path and hash, not embedded"
    )


def test_a_large_file_is_not_even_read(tmp_path):
    path = tmp_path / "huge.alloy.json"
    with path.open("wb") as file:
        file.truncate(200 << 20)

    with pytest.raises(AlloyError, match="the file is 200 MiB; an alloy has at most 16 MiB"):
        alloy.read_file(path)


@pytest.mark.parametrize("depth", [reading.MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused(depth):
    assert error_of(b'{"a":' + b"[" * depth + b"]" * depth + b"}") == (
        "the document is nested deeper than 64 levels\n  in   x.alloy.json"
    )


def test_a_key_given_twice_is_refused_with_its_place():
    assert error_of(b'{"results": {"benchmarks": [{"score": 1, "name": "x", "score": 2}]}}') == (
        "the key 'score' is given twice\n  in   x.alloy.json#/results/benchmarks/0\n"
        "  try  readers disagree on which of the two counts; keep one"
    )


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_no_number_for_is_refused(word):
    assert error_of(b'{"score": %s}' % word.encode()).startswith(f"{word} is not JSON\n")


def test_a_number_beyond_every_reader_is_refused():
    assert error_of(b'{"score": 1e999}').startswith("1e999 is larger than any number JSON readers can hold\n")
    assert error_of(b'{"score": %s}' % (b"9" * 5000)).startswith("a number has 5000 digits\n")


def test_text_that_is_not_utf_8_says_which_byte():
    assert error_of(b'{"name": "\xff"}') == "the document is not UTF-8: byte 10 is 0xff\n  in   x.alloy.json"


def test_a_byte_order_mark_is_named():
    assert error_of(b'\xef\xbb\xbf{"name": "x"}').startswith("the document starts with a byte order mark")


@pytest.mark.parametrize(("data", "kind"), [(b"[]", "a list"), (b"3", "a number"), (b"null", "null"), (b'"x"', "text")])
def test_a_document_is_an_object(data, kind):
    assert error_of(data) == f"the document is {kind}, not a JSON object\n  in   x.alloy.json"


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(AbsentError, match="there is no such file"):
        alloy.read_file(tmp_path / "none.alloy.json")


@given(st.binary(max_size=400))
def test_no_bytes_give_anything_but_an_alloy_or_an_alloy_error(data):
    try:
        read = alloy.read(data)
    except AlloyError:
        return
    assert isinstance(read.tree, dict)


@pytest.mark.parametrize("path", sorted(EMBEDDED.rglob("*.alloy.json")), ids=lambda path: path.parent.name)
def test_published_documents_are_written_back_byte_for_byte(path):
    data = path.read_bytes()

    assert alloy.write(alloy.read(data).tree) == data


def test_documents_older_than_the_domains_field_are_of_llm_forge():
    assert alloy.read(b"{}").domains == ("llm-forge",)
    assert alloy.read(b'{"domains": ["ticketing"]}').domains == ("ticketing",)


@pytest.mark.parametrize("data", [b"not json", b"", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}', b"\xff\xfe"])
def test_the_command_line_refuses_what_it_cannot_read_with_a_message_and_code_2(tmp_path, data):
    path = tmp_path / "bad.alloy.json"
    path.write_bytes(data)

    for command in ("verify", "claims", "plan"):
        ran = within(command, path)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: ")
        assert str(path) in ran.err


def test_a_hostile_name_cannot_drive_the_terminal(tmp_path):
    tree = an_alloy(
        name="\x1b[2J\x1b]0;owned\x07 [bold]x[/bold]", source={"baseModel": "\x1b[31m", "architecture": "\x1b[2J"}
    )
    path = tmp_path / "h.alloy.json"
    path.write_bytes(json.dumps(tree).encode())

    ran = within("verify", path)

    assert "\x1b" not in ran.out + ran.err
