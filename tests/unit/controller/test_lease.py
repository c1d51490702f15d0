# SPDX-License-Identifier: GPL-3.0-or-later
"""Who works: the Lease, as long as somebody tries for it, whatever goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from controller.lease import Lease
from tests.unit.controller.scripted import Hands, HttpError, Server

FORBIDDEN = 'leases is forbidden: User "x" cannot get resource "leases" in API group "coordination.k8s.io"'
OURS: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "one"}}


class Ended(BaseException):
    """The end of a script."""


class Stage(Hands):
    """A Lease whose thread runs here, for so many tries; time passes while it sleeps."""

    def __init__(self, answer: Callable[[str, str, Any], dict[str, Any]]) -> None:
        super().__init__()
        self.tries = 0
        self.beats: list[float] = []
        self.slept: list[float] = []
        self.turns: list[bool] = []
        self.lease = Lease(
            Cluster(Server(answer)),
            self,
            namespace="operators",
            name="lease",
            identity="one",
            turned=lambda: self.turns.append(self.lease.held),
            failed=lambda error: None,
            beat=lambda: self.beats.append(self.time),
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self.tries:
            raise Ended
        self.time += seconds

    def run(self, tries: int) -> None:
        self.tries = tries
        with pytest.raises(Ended):
            self.lease._run()


def test_an_error_that_nobody_expected_ends_no_thread_on_which_all_work_depends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = iter([{"metadata": {}}, OURS, OURS])  # The first is no Lease of an API server.
    stage = Stage(lambda *_request: next(answers))
    with caplog.at_level(logging.INFO):
        stage.run(tries=2)
    assert stage.turns == [True]
    assert [record.message for record in caplog.records] == [
        "the Lease: unexpected error; trying again",
        "this operator works",
    ]


def test_it_lasts_from_before_it_was_asked_for() -> None:
    stage = Stage(lambda *_request: OURS)

    def slow(*_request: Any) -> dict[str, Any]:
        stage.time += 7
        return OURS

    stage.lease._cluster = Cluster(Server(slow))
    stage.run(tries=1)
    assert stage.time == 1014
    assert stage.lease.held
    stage.time = 1015
    assert not stage.lease.held


def test_its_thread_shows_that_it_moves_also_where_a_right_is_missing() -> None:
    def refuse(*_request: Any) -> dict[str, Any]:
        raise HttpError(403, FORBIDDEN)

    stage = Stage(refuse)
    stage.run(tries=3)
    assert stage.lease.held, "two that work do the same; none that works does nothing"
    assert stage.beats == [1000, 1060, 1120]
