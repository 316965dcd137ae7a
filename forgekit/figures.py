"""Published figures: a number and the digits it was given to.

``88.4`` on a model card is not a float with noise; it says "between 88.35 and
88.45". Judging it needs those digits, so figures are decimals and exact
results are fractions; no tolerance is invented anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed range of exact values."""

    low: Fraction
    high: Fraction

    @classmethod
    def point(cls, value: Fraction | int) -> Interval:
        return cls(Fraction(value), Fraction(value))

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.low - other.high, self.high - other.low)

    def __mul__(self, other: Interval) -> Interval:
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def __truediv__(self, other: Interval) -> Interval:
        """Divide; the divisor must not reach zero.

        Raises:
            ZeroDivisionError: ``other`` contains zero.
        """
        if other.low <= 0 <= other.high:
            raise ZeroDivisionError("the divisor may be zero")
        return self * Interval(1 / other.high, 1 / other.low)

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True)
class Figure:
    """A published decimal: its value, and how many decimals it was given to."""

    value: Decimal

    @classmethod
    def of(cls, number: float) -> Figure:
        """Read the digits as JSON shows them: ``88.4`` has one decimal, ``12`` none."""
        return cls(Decimal(repr(number)))

    @property
    def decimals(self) -> int:
        exponent = self.value.as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0

    @property
    def interval(self) -> Interval:
        """Every exact value that this figure is a rounding of, ties included."""
        half = Fraction(1, 2 * 10**self.decimals)
        exact = Fraction(self.value)
        return Interval(exact - half, exact + half)

    def rounds(self, exact: Fraction) -> bool:
        """Whether ``exact``, rounded to this figure's own decimals, gives this figure."""
        return self.interval.low <= exact <= self.interval.high

    def __str__(self) -> str:
        return str(self.value)


def show(exact: Fraction, decimals: int = 2) -> str:
    """An exact value for a reader: rounded half to even, trailing zeros kept."""
    return f"{Decimal(round(exact * 10**decimals)).scaleb(-decimals):f}"
