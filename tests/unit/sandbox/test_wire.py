"""What a candidate returns arrives as the value it was, or not at all."""

from __future__ import annotations

import collections
import decimal
import fractions
import importlib.util
import marshal
import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.sandbox import CELL, wire
from forgekit.sandbox.wire import MalformedError, decode, frames

np = pytest.importorskip("numpy")
spec = importlib.util.spec_from_file_location("cell_under_test", CELL)
cell = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cell)

atoms = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5) | st.complex_numbers()
)
hashable = st.recursive(atoms, lambda inner: st.tuples(inner) | st.frozensets(inner, max_size=3), max_leaves=4)
plain = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=10,
)


def sent(value, *, whole=True):
    letter, payload = cell.encode(value, whole=whole)
    return letter + len(payload).to_bytes(4, "little") + payload


def alike(a, b):  # noqa: PLR0911 - one line for each kind of value
    """Same type and value at every level; NaN is like NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (math.isnan(a) and math.isnan(b)))
    if isinstance(a, complex):
        return alike(a.real, b.real) and alike(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(alike(x, y) for y in b) for x in a)
    if isinstance(a, dict):
        return alike(list(a.keys()), list(b.keys())) and alike(list(a.values()), list(b.values()))
    return a == b


@given(plain)
def test_plain_data_arrives_as_it_was(value):
    assert alike(decode(sent(value)).value, value)


@given(plain)
def test_our_reader_and_the_interpreters_agree(value):
    data = marshal.dumps(value, 2)

    assert alike(decode(b"V" + len(data).to_bytes(4, "little") + data).value, marshal.loads(data))


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**31, -(2**31) - 1, 10**5000, -(7**900)],
    ids=["zero", "negative", "above 31 bits", "below 31 bits", "long", "long negative"],
)
def test_integers_of_any_length_arrive(value):
    assert decode(sent(value)).value == value


class Everything(list):
    def __eq__(self, other):
        return True

    __hash__ = None


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (Everything([1]), [1]),
        (type("Text", (str,), {})("x"), "x"),
        (type("Whole", (int,), {"__eq__": lambda *_: True, "__hash__": int.__hash__})(3), 3),
    ],
)
def test_instances_of_subclasses_arrive_as_their_base_and_marked(value, arrives):
    answer = decode(sent(value))

    assert type(answer.value) is type(arrives)
    assert answer.value == arrives
    assert not answer.exact


@pytest.mark.parametrize(
    "value",
    [
        np.float64(2.5),
        np.int64(3),
        np.bool_(1),
        np.str_("x"),
        decimal.Decimal("1.50"),
        fractions.Fraction(1, 3),
        range(3),
    ],
)
def test_numbers_of_other_libraries_arrive(value):
    assert decode(sent(value)).value == value
    assert decode(sent([value])).value == [value]


@pytest.mark.parametrize("value", [np.arange(6).reshape(2, 3), np.array([0.5, np.inf]), np.array(["a", "bc"])])
def test_arrays_arrive(value):
    found = decode(sent(value)).value

    assert np.array_equal(found, value)
    assert found.dtype.kind == value.dtype.kind


@pytest.mark.parametrize(
    "value", [map(str, ()), object(), len, Ellipsis, iter([]), np.array([object()]), bytearray(b"x"), memoryview(b"x")]
)
def test_what_is_not_data_equals_nothing(value):
    answer = decode(sent(value)).value

    assert isinstance(answer, wire.Opaque)
    assert answer != answer  # noqa: PLR0124 - that is the point
    assert answer != value
    assert [answer] != [1]


@given(st.binary(max_size=60))
def test_no_bytes_give_anything_but_a_value_or_a_malformed_error(data):
    for letter in (b"V", b"E"):
        try:
            decode(letter + len(data).to_bytes(4, "little") + data)
        except MalformedError:
            continue


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[\xff\xff\xff\x7f",
        b"u\xff\xff\xff\xffx",
        b"l\xff\xff\xff\x7f",
        b"(" + b"\x01\0\0\0(" * 500,
        b"c" + bytes(40),  # a code object
        b"r\0\0\0\0",  # a back reference
        b"{[\0\0\0\0N0",  # an unhashable key
        b"NN",
    ],
)
def test_hostile_values_are_refused(payload):
    with pytest.raises(MalformedError):
        decode(b"V" + len(payload).to_bytes(4, "little") + payload)


@pytest.mark.parametrize(
    "node",
    [
        ("array", "<U999999999", (1,), ("[", [("=", "x")])),
        ("array", "object", (1,), ("[", [("=", 1)])),
        ("array", "<f8", (5,), ("[", [("=", 1.0)])),
        ("scalar", "V16", 1),
        ("decimal", "one"),
        ("fraction", 1, 0),
        ("fraction", "1", 2),
        ("fraction", 1 << 200_000, 3),
        ("decimal", "1" * 20_000),
        ("array", "<U5", (101,), ("[", [("=", "x" * 10**6)] + [("=", "")] * 100)),
        ("array", "<U5", (1,), ("[", [("=", None)])),
        ("range", 1),
        ("sub",),
        ("?", 1),
        7,
    ],
)
def test_hostile_tags_are_refused_or_harmless(node):
    data = marshal.dumps(node, 2)
    frame = b"E" + len(data).to_bytes(4, "little") + data
    try:
        answer = decode(frame)
    except MalformedError:
        return
    assert np.asarray(answer.value).nbytes < 1000


@given(st.lists(st.binary(max_size=30), max_size=6), st.data())
def test_frames_are_cut_the_same_however_they_arrive(payloads, data):
    whole = b"".join(b"V" + len(p).to_bytes(4, "little") + p for p in payloads)
    buffer, found = bytearray(), []
    rest = whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        buffer += rest[:size]
        rest = rest[size:]
        found += frames(buffer, limit=100)

    assert [frame[5:] for frame in found] == payloads
    assert not buffer


def test_a_frame_longer_than_allowed_is_refused_before_it_arrives():
    with pytest.raises(MalformedError, match="an answer of 101 bytes"):
        list(frames(bytearray(b"V" + (101).to_bytes(4, "little")), limit=100))


@given(st.lists(st.integers(-(2**60), 2**60) | st.floats(allow_nan=False), min_size=1, max_size=50))
def test_long_sequences_of_equal_numbers_have_equal_hashes(numbers):
    numbers = [x or 0.0 for x in numbers] * (20_000 // len(numbers) + 1)  # -0.0 is looked at whole
    other = [int(x) if isinstance(x, float) and x.is_integer() else x for x in numbers]

    assert numbers == other
    assert sent(numbers, whole=False)[:1] == b"H"
    assert sent(numbers, whole=False) == sent(other, whole=False)


def test_long_sequences_that_differ_anywhere_have_different_hashes():
    numbers = list(range(30_000))
    spoilt = [*numbers[:-1], -1]

    assert sent(numbers, whole=False) != sent(spoilt, whole=False)
    assert sent(numbers, whole=False) != sent(tuple(numbers), whole=False)
    assert sent([2**53, *numbers], whole=False) != sent([2**53 + 1, *numbers], whole=False)


def test_long_nested_sequences_hash_by_value():
    rows = [(i, str(i)) for i in range(20_000)]

    assert sent(rows, whole=False) == sent([(i, str(i)) for i in range(20_000)], whole=False)
    assert sent(rows, whole=False) != sent([*rows[:-1], (0, "0")], whole=False)
    assert sent([[1.0]] * 20_000, whole=False) == sent([[1]] * 20_000, whole=False)


def colliding(count):
    return [i * (2**61 - 1) for i in range(count)]


@pytest.mark.parametrize("kind", [b"<", b">", b"{"])
def test_values_made_to_collide_are_refused_quickly(kind):
    items = [marshal.dumps(key, 2) for key in colliding(5000)]
    if kind == b"{":
        payload = b"{" + b"".join(item + b"N" for item in items) + b"0"
    else:
        payload = kind + len(items).to_bytes(4, "little") + b"".join(items)

    with pytest.raises(MalformedError, match="collide"):
        decode(b"V" + len(payload).to_bytes(4, "little") + payload)


@pytest.mark.parametrize("make", [set, frozenset, dict.fromkeys])
def test_large_honest_sets_arrive(make):
    assert decode(sent(make(range(5000)), whole=True)).value == make(range(5000))


def test_a_list_of_many_equal_items_is_no_collision():
    assert wire.as_set([1, 1.0, True, (1,)] * 5000) == {1, (1,)}
    with pytest.raises(MalformedError, match="collide"):
        wire.as_set(colliding(5000))
