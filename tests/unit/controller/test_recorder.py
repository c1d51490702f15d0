# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: a burst and then a trickle, equal sentences counted, and never in the way of the work."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from controller.digest import Told
from controller.recorder import Recorder
from tests.unit.controller.scripted import FORBIDDEN, Hands, HttpError, Server

DAEMONSET = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "cache", "namespace": "puller", "uid": "uid-1", "labels": {"a": "b"}},
}


class Stage:
    """A recorder, its clock, and an API server that fails as it is told to."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.errors: list[ApiError] = []
        self.fail: dict[str, HttpError] = {}
        self.server = Server(self._answer)
        self.recorder = Recorder(Cluster(self.server), self.clock, self.errors.append)

    def _answer(self, method: str, path: str, body: Any) -> dict[str, Any]:
        if method in self.fail:
            raise self.fail[method]
        return {}

    def tell(self, *messages: str) -> None:
        for message in messages:
            self.recorder.tell(lambda: DAEMONSET, Told("Normal", "Patched", message))

    def sent(self) -> list[str]:
        """What was sent by this flush: the messages of new Events, and the counts of those that were told before."""
        self.server.asked.clear()
        self.recorder.flush()
        return [str(body.get("message", body["count"])) for _method, _path, body in self.server.asked]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_an_event_is_about_the_object_and_says_who_tells(stage: Stage) -> None:
    stage.tell("x" * 2000)
    stage.sent()
    ((method, path, event),) = stage.server.asked
    assert (method, path) == ("POST", "/api/v1/namespaces/puller/events")
    assert event["metadata"]["name"].startswith("cache.")
    assert event["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "namespace": "puller",
        "name": "cache",
        "uid": "uid-1",
    }
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "Patched", 1)
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-11-20T12:00:00Z"
    assert event["source"] == {"component": "image-puller"}
    assert (len(event["message"]), event["message"][-4:]) == (1024, "x...")


def test_of_many_a_burst_is_sent_and_then_one_in_ten_seconds(stage: Stage) -> None:
    stage.tell(*(f"sentence {number}" for number in range(60)))
    assert len(stage.sent()) == 25
    assert stage.sent() == []
    stage.clock.time += 10
    assert stage.sent() == ["sentence 25"]
    stage.clock.time += 9
    assert stage.sent() == []
    stage.clock.time += 24 * 3600
    assert len(stage.sent()) == 25, "a quiet day is no larger burst"


def test_of_too_many_that_wait_the_oldest_give_way(stage: Stage) -> None:
    stage.tell(*(f"sentence {number}" for number in range(300)))
    assert stage.sent()[0] == "sentence 100"


def test_the_same_sentence_is_counted_for_ten_minutes(stage: Stage) -> None:
    stage.tell("same", "other")
    assert stage.sent() == ["same", "other"]
    (_, _, first), _ = stage.server.asked
    for count in (2, 3):
        stage.clock.time += 60
        stage.tell("same")
        assert stage.sent() == [str(count)]
    ((method, path, patch),) = stage.server.asked
    assert (method, path.rsplit("/", 1)[-1]) == ("PATCH", first["metadata"]["name"])
    assert patch == {"count": 3, "lastTimestamp": "2026-11-20T12:02:00Z"}
    stage.clock.time += 600
    stage.tell("same")
    assert stage.sent() == ["same"], "told anew"


def test_an_event_that_has_expired_is_told_anew(stage: Stage) -> None:
    stage.tell("same")
    stage.sent()
    stage.tell("same")
    stage.fail = {"PATCH": HttpError(404)}
    assert stage.sent() == ["2", "same"]
    assert stage.errors == []


def test_without_the_right_it_rests_and_keeps_nothing_back(stage: Stage) -> None:
    stage.fail = {"POST": HttpError(403, FORBIDDEN)}
    stage.tell("one", "two")
    assert stage.sent() == ["one"]
    assert [error.forbidden for error in stage.errors] == [True]
    stage.fail = {}
    stage.clock.time += 599
    stage.tell("three")
    assert stage.sent() == []
    stage.clock.time += 1
    stage.tell("four")
    assert stage.sent() == ["four"]


def test_an_object_that_may_not_be_read_takes_only_its_own_events_away(stage: Stage) -> None:
    def unreadable() -> dict[str, Any]:
        message = 'deployments.apps "x" is forbidden: User "x" cannot get resource "deployments" in API group "apps"'
        raise ApiError(message, 403)

    stage.recorder.tell(unreadable, Told("Normal", "Patched", "lost"))
    stage.tell("one")
    assert stage.sent() == ["one"]
    assert [error.forbidden for error in stage.errors] == [True]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_server_that_is_away_is_asked_once_and_the_others_wait(stage: Stage, status: int) -> None:
    stage.fail = {"POST": HttpError(status)}
    stage.tell("one", "two", "three")
    assert stage.sent() == ["one"]
    stage.fail = {}
    assert stage.sent() == ["two", "three"]


def test_what_is_refused_for_another_reason_is_lost_alone(stage: Stage) -> None:
    stage.fail = {"POST": HttpError(422)}
    stage.tell("one", "two")
    assert stage.sent() == ["one", "two"]
    assert len(stage.errors) == 2
