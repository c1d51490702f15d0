# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes quantities: ``.05`` CPU is ``50m``, ``0.5Gi`` is ``512Mi``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_UP, Decimal

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FORM = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE]?))")
_NANO = Decimal("1e-9")
_LARGEST = Decimal(2**63 - 1)


def parse_quantity(text: str) -> Decimal:
    """The value of a quantity, rounded up to a nano as the API server does; ValueError for what it would refuse."""
    match = _FORM.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no quantity")
    number, exponent, suffix = match.groups()
    if exponent:
        value = Decimal(number).scaleb(int(exponent[1:]))
    elif suffix.endswith("i"):
        value = Decimal(number) * 1024 ** _BINARY_SUFFIXES.index(suffix)
    else:
        value = Decimal(number).scaleb(_DECIMAL[suffix])
    if abs(value) > _LARGEST:
        raise ValueError(f"{text!r} is too large")
    return value.quantize(_NANO, rounding=ROUND_UP) if value != value.to_integral_value() else value


def same_quantity(one: object, other: object) -> bool:
    """Whether two texts (or numbers) mean the same request or limit; False where one is no quantity.

    The API server rounds the amounts in a container's resources up to a thousandth.
    """
    try:
        return _milli(parse_quantity(str(one))) == _milli(parse_quantity(str(other)))
    except ValueError:
        return False


def canonical_quantity(text: str) -> str:
    """Kubernetes' canonical form of the amount: no fraction, the largest suffix of its kind that needs none."""
    value = parse_quantity(text)
    if re.search(r"[eE][+-]?[0-9]", text):
        return _show(value, {f"e{power}" if power else "": power for power in _DECIMAL.values()})
    return format_quantity(value, binary=text.endswith("i"))


def format_quantity(value: Decimal, *, binary: bool = False) -> str:
    """A whole number of nanos as a canonical quantity, with binary suffixes (as for memory) or with decimal ones."""
    whole = value == value.to_integral_value()
    if binary and whole and abs(value) >= 1024:
        power = next(power for power in range(6, -1, -1) if value % 1024**power == 0)
        return f"{int(value) // 1024**power}{_BINARY_SUFFIXES[power]}"
    return _show(value, _DECIMAL)


def show_bytes(count: int) -> str:
    """A number of bytes for people: ``1.2 GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{-(-count // 1000)} kB"


def _milli(value: Decimal) -> Decimal:
    return (value * 1000).to_integral_value(rounding=ROUND_UP)


def _show(value: Decimal, suffixes: Mapping[str, int]) -> str:
    if value == 0:
        return "0"
    for suffix, power in sorted(suffixes.items(), key=lambda item: -item[1]):
        scaled = value.scaleb(-power)
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    raise ValueError(f"{value} is finer than a nano")
