from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.figures import Figure, Interval, show


@pytest.mark.parametrize(("number", "decimals"), [(88.4, 1), (12, 0), (88.0, 1), (-3.18, 2), (5e-05, 5), (1e22, 0)])
def test_a_figure_has_the_decimals_json_shows(number, decimals):
    assert Figure.of(number).decimals == decimals


def test_the_flagship_score_is_the_rounding_of_its_counts():
    assert Figure.of(88.4).rounds(Fraction(100 * 145, 164))
    assert not Figure.of(88.4).rounds(Fraction(100 * 146, 164))


@given(st.integers(1, 1000), st.data(), st.integers(1, 4))
def test_every_rounding_of_a_rate_is_recognised_at_its_own_digits(total, data, digits):
    rate = Fraction(100 * data.draw(st.integers(0, total)), total)

    assert Figure.of(float(show(rate, digits))).rounds(rate)
    assert Figure.of(round(float(rate), digits)).rounds(rate)
    assert Figure.of(round(rate)).rounds(rate)


@given(st.fractions(-100, 100), st.fractions(-100, 100), st.fractions(-100, 100), st.fractions(-100, 100))
def test_interval_arithmetic_contains_the_exact_result(a, b, c, d):
    x, y = Interval(min(a, b), max(a, b)), Interval(min(c, d), max(c, d))

    assert Interval.point(a - c).overlaps(x - y)
    assert Interval.point(a + c).overlaps(x + y)
    assert Interval.point(a * c).overlaps(x * y)


def test_dividing_by_an_interval_that_reaches_zero_is_refused():
    with pytest.raises(ZeroDivisionError):
        Interval.point(1) / Interval(Fraction(-1), Fraction(1))


@pytest.mark.parametrize(
    ("exact", "text"), [(Fraction(1, 3), "0.33"), (Fraction(-1, 8), "-0.12"), (Fraction(2), "2.00")]
)
def test_exact_values_are_shown_with_their_decimals(exact, text):
    assert show(exact) == text
