# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes quantities: ``.05`` CPU is ``50m``, ``0.5Gi`` is ``512Mi``."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
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
    elif suffix in _BINARY:
        value = Decimal(number) * 1024 ** _BINARY[suffix]
    else:
        value = Decimal(number).scaleb(_DECIMAL[suffix])
    if abs(value) > _LARGEST:
        raise ValueError(f"{text!r} is too large")
    return value.quantize(_NANO, rounding=ROUND_CEILING) if value != value.to_integral_value() else value


def same_quantity(one: object, other: object) -> bool:
    """Whether two texts (or numbers) mean the same amount; False where one is no quantity."""
    try:
        return parse_quantity(str(one)) == parse_quantity(str(other))
    except ValueError:
        return False


def canonical_quantity(text: str) -> str:
    """The form in which the API server stores it: no fraction, the largest suffix that needs none."""
    value = parse_quantity(text)
    if text.endswith("i") and abs(value) >= 1024 and value == value.to_integral_value():
        for suffix, power in sorted(_BINARY.items(), key=lambda item: -item[1]):
            if value % 1024**power == 0:
                return f"{value // 1024**power}{suffix}"
        return f"{value:f}".split(".")[0]
    if value == 0:
        return "0"
    for suffix, power in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        scaled = value.scaleb(-power)
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    raise AssertionError("a quantity is a whole number of nanos")
