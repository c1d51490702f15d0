# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rights are there: asked for each namespace, told with what a missing one costs, and asked for again."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from controller.metrics import Metrics
from controller.world import World
from tests.unit.controller.scripted import FORBIDDEN, Hands, HttpError, Server


class Stage:
    """A world in which rights are there in some namespaces."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = set(allowed)
        self.clock, self.server = Hands(), Server(self._answer)
        self.world = World(Cluster(self.server), self.clock, Metrics(), namespace="a", woken=lambda *_change: None)

    def _answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        return {"status": {"allowed": body["spec"]["resourceAttributes"]["namespace"] in self.allowed}}


def test_a_right_in_one_namespace_is_none_in_another(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage("a")
    assert [stage.world.may_delete_pods(name) for name in ("a", "b", "a", "b")] == [True, False, True, False]
    assert [stage.world.may_patch_daemonsets(name) for name in ("b", "a")] == [False, True]
    assert len(stage.server.asked) == 4
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(":")[0] for message in told] == [
        "the right to delete Pods in b is missing",
        "the right to patch DaemonSets in b is missing",
    ]


def test_a_right_that_is_missing_is_asked_for_again_after_a_while() -> None:
    stage = Stage()
    assert not stage.world.may_delete_pods("b")
    stage.allowed = {"b"}
    stage.clock.time += 600
    assert not stage.world.may_delete_pods("b")
    stage.clock.time += 1
    assert stage.world.may_delete_pods("b")


def test_a_right_that_is_gone_is_asked_for_anew() -> None:
    stage = Stage("a")
    assert stage.world.may_delete_pods("a")
    stage.allowed = set()
    assert stage.world.may_delete_pods("a"), "it is believed"
    stage.world.failed(ApiError(FORBIDDEN, 403, "Forbidden", verb="delete"))
    assert not stage.world.may_delete_pods("a")


def test_a_missing_right_is_said_again_where_it_was_there_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    stage, error = Stage(), ApiError(FORBIDDEN, 403, "Forbidden", verb="create")
    for passed, said in ((0, 1), (750, 1), (750, 1), (1801, 2), (1, 2)):
        stage.clock.time += passed
        stage.world.failed(error)
        assert [record.message for record in caplog.records] == [FORBIDDEN] * said


def test_who_may_not_ask_finds_out() -> None:
    stage = Stage()

    def refuse(*_asked: Any) -> dict[str, Any]:
        raise HttpError(403, FORBIDDEN)

    stage.server.answer = refuse
    assert stage.world.may_delete_pods("a")
