# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop guard: its pauses grow, it forgets after peace, and what can't be true is ignored with a warning."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard
from tests.unit import objects

NOW = datetime.fromisoformat(objects.NOW.replace("Z", "+00:00"))
GUARD = "kubecache.io/guard"


def _config_map(annotation: str | None) -> dict[str, Any]:
    annotations = {} if annotation is None else {GUARD: annotation}
    return {"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b", "annotations": annotations}}


def _recreated(times: int) -> Guard:
    guard = Guard()
    for _ in range(times):
        guard = guard.after("recreate", NOW)
    return guard


@pytest.mark.parametrize(("times", "seconds"), [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (50, 3600)])
def test_the_pause_after_recreating_doubles_up_to_an_hour(times: int, seconds: int) -> None:
    guard = _recreated(times)
    assert guard.paused_until("recreate", NOW) == NOW + timedelta(seconds=seconds)
    assert guard.paused_until("recreate", NOW + timedelta(seconds=seconds)) is None


def test_the_first_time_is_free_and_peace_makes_it_the_first_again() -> None:
    assert Guard().paused_until("recreate", NOW) is None
    later = NOW + timedelta(hours=7)
    assert _recreated(9).after("recreate", later).recreate.count == 1


def test_patches_of_one_template_are_counted_and_a_few_are_free() -> None:
    guard = Guard()
    for _ in range(5):
        guard = guard.after("patch", NOW, "one")
    assert guard.paused_until("patch", NOW, "one") is None
    assert guard.worth_keeping("patch")
    guard = guard.after("patch", NOW, "one")
    assert guard.paused_until("patch", NOW, "one") == NOW + timedelta(seconds=60)
    assert guard.paused_until("patch", NOW, "two") is None
    assert guard.paused_until("recreate", NOW) is None
    assert guard.because("patch") == f"it was put right 6 times in a row, last at {objects.NOW}"


@given(st.integers(0, 12), st.integers(0, 12))
def test_what_is_written_is_read(recreated: int, patched: int) -> None:
    guard = _recreated(recreated)
    for _ in range(patched):
        guard = guard.after("patch", NOW, "one")
    assert Guard.read(_config_map(guard.annotation()), NOW) == (guard, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"recreate": 7}',
        "[" * 100_000,
        '{"recreate": {"count": "many", "last": "2026-11-20T11:00:00Z"}}',
        '{"recreate": {"count": true, "last": "2026-11-20T11:00:00Z"}}',
        '{"recreate": {"count": -3, "last": "2026-11-20T11:00:00Z"}}',
        '{"recreate": {"count": 1}}',
        '{"recreate": {"count": 1, "last": "yesterday"}}',
        '{"recreate": {"count": 1, "last": "2026-11-20T11:00:00"}}',
        '{"patch": {"count": 1, "last": "2031-01-01T00:00:00Z"}}',
    ],
)
def test_what_can_not_be_true_is_absent_and_warned_of(text: str) -> None:
    guard, warning = Guard.read(_config_map(text), NOW)
    assert guard == Guard()
    assert warning == f"the annotation {GUARD} of ConfigMap b/a can't be read and is ignored: {text}"


_keys = st.sampled_from(["recreate", "patch", "count", "last", "template"])
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
)


@given(_anything)
def test_no_annotation_is_a_crash(told: Any) -> None:
    guard, _warning = Guard.read(_config_map(json.dumps(told)), NOW)
    guard.paused_until("recreate", NOW)


def test_no_config_map_and_no_annotation_are_no_guard() -> None:
    assert Guard.read(None, NOW) == (Guard(), "")
    assert Guard.read(_config_map(None), NOW) == (Guard(), "")
