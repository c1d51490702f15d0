# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities mean what the API server takes them to mean; the tables are its own answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import (
    canonical_quantity,
    format_quantity,
    parse_quantity,
    same_quantity,
)

quantities = st.builds(
    "{}{}{}".format,
    st.integers(0, 9999),
    st.sampled_from(["", ".5", ".05", ".125", ".000"]),
    st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-2", "e1"]),
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (".05", "50m"),
        (".2", "200m"),
        ("0.5Gi", "512Mi"),
        ("1024Mi", "1Gi"),
        ("1536Ki", "1536Ki"),
        ("1.5Ki", "1536"),
        ("1023Ki", "1023Ki"),
        ("0.5Ki", "512"),
        ("1.1Ki", "1126400m"),
        ("20M", "20M"),
        ("1000k", "1M"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("2000m", "2"),
        ("00.10", "100m"),
        ("0m", "0"),
        ("0Gi", "0"),
        ("1E", "1E"),
        ("1e3", "1e3"),
        ("1500e3", "1500e3"),
        ("1000e3", "1e6"),
        ("1e1", "10"),
        ("-1.5", "-1500m"),
        ("-2048Ki", "-2Mi"),
    ],
)
def test_the_canonical_form_is_kubernetes_own(text: str, canonical: str) -> None:
    assert canonical_quantity(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "Mi",
        ".",
        "1mi",
        "1 Mi",
        "20 Mi",
        "1,5",
        "0x1",
        "1K",
        "--1",
        "1ee3",
        "e3",
        "1_0",
        "٣",
        "1_e",
        "NaN",
        "16Ei",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no quantity|too large"):
        parse_quantity(text)


@given(quantities)
def test_the_canonical_form_keeps_the_value_and_is_a_fixed_point(text: str) -> None:
    canonical = canonical_quantity(text)
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonical_quantity(canonical) == canonical


@given(quantities, st.booleans())
def test_formatting_keeps_the_value_whatever_the_suffixes(text: str, binary: bool) -> None:
    assert parse_quantity(format_quantity(parse_quantity(text), binary=binary)) == parse_quantity(text)


@given(quantities)
def test_an_amount_is_the_same_in_its_canonical_form(text: str) -> None:
    assert same_quantity(text, canonical_quantity(text))


@pytest.mark.parametrize(("one", "other"), [("1.5m", "2m"), ("100n", "1m"), (1, "1000m"), (".05", "50m")])
def test_amounts_of_resources_are_equal_when_the_api_server_rounds_them_to_the_same(one: object, other: object) -> None:
    assert same_quantity(one, other)


@pytest.mark.parametrize(("one", "other"), [("10Mi", "10M"), ("50m", "51m"), ("1Ki", "1k"), ("x", "x"), ("", "0")])
def test_different_amounts_and_no_amounts_are_not_the_same(one: str, other: str) -> None:
    assert not same_quantity(one, other)


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_a_value_error(text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert abs(value) < 2**63
