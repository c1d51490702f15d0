# SPDX-License-Identifier: GPL-3.0-or-later
"""One set in the controller: what it says of the settings that it reads."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet, because_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import Choice
from controller.asker import Asker
from controller.keeper import Keeper
from controller.metrics import Metrics
from controller.refresher import Refresher
from controller.world import World
from tests.unit import objects
from tests.unit.controller.scripted import Hands, Server


def keeper(data: dict[str, str]) -> Keeper:
    """Of the ConfigMap ``cache`` with this data, which a test may change."""

    def answer(_method: str, _path: str, _body: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cache"}, "data": data}

    world = World(Cluster(Server(answer)), Hands(), Metrics(), namespace="a", woken=lambda *_change: None)
    names = ImageSet("a", "cache", "puller")
    refresher = Refresher(world, names, Asker(world, {}, dict, lambda: None))
    return Keeper(world, names, {}, lambda _settings: "", refresher)


def test_keys_that_nobody_knows_are_named_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = {"IMAGES": "a=registry.example.com/a:1", "NAMESPACE": "a", "IMAGEZ": "b", "ANOTHER": "c"}
    made, said = keeper(data), "cache: keys that nobody here knows are left alone: "
    for _ in range(3):
        reading = made._read()
        assert reading
        assert reading.settings
        assert reading.problems == ()
        assert [image.name for image in reading.settings.images] == ["a"]
    assert caplog.messages == [f"{said}ANOTHER, IMAGEZ"]
    del data["ANOTHER"]
    made._read()
    del data["IMAGEZ"]
    made._read()
    assert caplog.messages[1:] == [f"{said}IMAGEZ"]


def test_why_a_strategy_was_chosen_makes_no_other_question_of_the_same_patch() -> None:
    """Else what admission makes of a set is asked for in each pass, and the set stays where it is."""
    made, patch = keeper({}), Decision("patch", ("spec.x differs",))
    settings = objects.settings(strategy="auto")
    said = because_of(Choice("sleep", "the nodes may not be read"), patch, settings)
    assert said.reasons != patch.reasons
    desired, live = objects.desired(), objects.served(objects.desired())
    assert made._fingerprint(desired, live, said) == made._fingerprint(desired, live, patch)
