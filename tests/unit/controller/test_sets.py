# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ConfigMaps are the sets of a controller."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import DEPLOYMENT, IMAGE_SET
from controller.keeper import sets_of


def _config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels} if labels else {"name": name}}


@pytest.mark.parametrize(
    ("config_map", "is_set"),
    [
        pytest.param(_config_map("set"), True, id="the named one needs no label"),
        pytest.param(_config_map("other"), False, id="any other does"),
        pytest.param(_config_map("gpu", **{IMAGE_SET: "gpu"}), True, id="whoever made it"),
        pytest.param(_config_map("gpu", **{IMAGE_SET: "gpu", DEPLOYMENT: "ours"}), True, id="of this installation"),
        pytest.param(_config_map("gpu", **{IMAGE_SET: "gpu", DEPLOYMENT: "theirs"}), False, id="of another one"),
        pytest.param(_config_map("app", app="shop"), False, id="of an application"),
    ],
)
def test_the_sets_of_a_controller(config_map: dict[str, Any], is_set: bool) -> None:
    assert bool(sets_of([config_map], "set", "ours")) == is_set


def test_the_named_set_comes_first_and_the_others_by_name() -> None:
    made = [_config_map(name, **{IMAGE_SET: name}) for name in ("z", "set", "a")]
    assert sets_of(made, "set", "ours") == ["set", "a", "z"]
