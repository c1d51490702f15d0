# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets of a controller: whose DaemonSet is whose, what is kept when something is wrong, and what is removed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    installed_daemonsets,
    remove_former_daemonsets,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    DEPLOYMENT,
    IMAGE_SET,
    describe,
    metadata,
)
from controller.judge import Judge
from controller.keeper import Keeper, View
from controller.loop import Controller
from controller.watches import Watch
from tests.unit.controller.scripted import FORBIDDEN, Hands, HttpError, Server, Store
from tests.unit.objects import settings

OWN = "a"
DENIED = HttpError(403, "admission webhook denied the request")
FOREIGN: dict[str, Any] = {"selector": {"matchLabels": {"app": "theirs"}}, "template": {"spec": {"containers": []}}}


class Stage:
    """A controller of the namespace ``a`` whose caches are as the API when a test lets it pass."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.store, self.clock, self.environment = Store(), Hands(), environment
        self.controller = self.new_controller()
        self.write("Deployment", "puller", spec={"replicas": 1})

    def new_controller(self) -> Controller:
        """One that has just started."""
        return Controller(
            Cluster(Server(self.store)),
            namespace=OWN,
            deployment_name="puller",
            environment=self.environment,
            clock=self.clock,
        )

    def write(self, kind: str, name: str, namespace: str = OWN, **more: Any) -> None:
        """Make or replace an object."""
        prefix = "/api/v1" if kind == "ConfigMap" else "/apis/apps/v1"
        data = {"name": name, "namespace": namespace, **more.pop("metadata", {})}
        obj = {"apiVersion": prefix.split("/", 2)[2], "kind": kind, "metadata": data, **more}
        self.store.put(f"{prefix}/namespaces/{namespace}/{kind.lower()}s/{name}", obj)

    def write_set(self, name: str, **data: str) -> None:
        """The ConfigMap of a set, with one image."""
        data = {"IMAGES": "java11=registry.example.com/team/java11:2.1", "NAMESPACE": OWN, **data}
        self.write("ConfigMap", name, metadata={"labels": {IMAGE_SET: name}}, data=data)

    def remove_set(self, name: str) -> None:
        """Its ConfigMap alone."""
        del self.store.objects[f"/api/v1/namespaces/{OWN}/configmaps/{name}"]

    def go_on(self, *unread: str) -> None:
        """The caches hear of what is, but for these kinds; then a pass of each set."""
        world = self.controller._world
        if not world._scopes:
            world.start()
        for watch in world.watches:
            if watch.kind not in unread:
                watch._list()
            else:
                watch._filled = False
        self.clock.time += 60
        self.controller._keep()

    def daemonsets(self) -> dict[str, str]:
        """Which there are, as ``name`` or ``namespace/name`` elsewhere, and of which sets they are."""
        found = {}
        for path, obj in self.store.objects.items():
            if "/daemonsets/" in path:
                data = metadata(obj)
                where = data["name"] if data["namespace"] == OWN else f"{data['namespace']}/{data['name']}"
                found[where] = (data.get("labels") or {}).get(IMAGE_SET, "")
        return found

    def keeper(self, name: str) -> Keeper:
        """What keeps a set."""
        return self.controller._sets[name][0]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(Watch, "start", lambda self: self)
    return Stage({"CONFIG_MAP_NAME": "main"})


@pytest.fixture
def running(stage: Stage) -> Stage:
    """With the main set's DaemonSet ``cache``."""
    stage.write_set("main", DAEMONSET_NAME="cache")
    stage.go_on()
    stage.go_on()
    assert stage.daemonsets() == {"cache": "main"}
    assert stage.keeper("main").in_place
    return stage


# --- a former DaemonSet ----------------------------------------------------------------------------------------------


def test_a_former_daemonset_goes_when_the_new_one_is_there(running: Stage) -> None:
    running.write_set("main", DAEMONSET_NAME="renamed")
    running.go_on()
    assert running.daemonsets() == {"cache": "main", "renamed": "main"}
    running.go_on()
    assert running.daemonsets() == {"renamed": "main"}
    assert running.keeper("main").in_place


def test_where_the_new_one_is_somebody_elses_the_former_stays(running: Stage) -> None:
    running.write("DaemonSet", "theirs", spec=FOREIGN)
    running.write_set("main", DAEMONSET_NAME="theirs")
    for _ in range(3):
        running.go_on()
        assert running.daemonsets() == {"cache": "main", "theirs": ""}
        assert not running.keeper("main").in_place


def test_where_nothing_was_done_yet_nothing_is_in_place_and_the_former_stays(running: Stage) -> None:
    running.write_set("main", DAEMONSET_NAME="renamed", STRATEGY="auto")
    running.go_on("Node")
    assert running.daemonsets() == {"cache": "main"}
    assert not running.keeper("main").in_place
    running.go_on()
    running.go_on()
    assert running.daemonsets() == {"renamed": "main"}


def test_where_the_new_one_cant_be_made_the_former_stays(running: Stage) -> None:
    new = "/apis/apps/v1/namespaces/a/daemonsets/renamed"
    running.store.refusals["PATCH", new] = DENIED
    running.write_set("main", DAEMONSET_NAME="renamed")
    running.go_on()
    assert running.daemonsets() == {"cache": "main"}
    del running.store.refusals["PATCH", new]
    running.go_on()
    running.go_on()
    assert running.daemonsets() == {"renamed": "main"}


# --- when something is wrong -----------------------------------------------------------------------------------------


def test_a_set_that_cant_be_kept_makes_the_controller_no_less_ready(stage: Stage) -> None:
    stage.store.refusals["PATCH", "/apis/apps/v1/namespaces/b/"] = DENIED
    stage.write_set("main", DAEMONSET_NAME="cache")
    stage.write_set("other", NAMESPACE="b")
    stage.controller._world.start()
    assert stage.controller.unready()
    stage.go_on()
    assert stage.daemonsets() == {"cache": "main"}
    stage.go_on()
    assert stage.controller.unready() == ""


@pytest.mark.parametrize(
    ("error", "named"),
    [(HttpError(500, "etcdserver: request timed out"), ""), (HttpError(403, FORBIDDEN), "k8s-image-puller")],
)
def test_an_error_at_the_start_says_nothing_of_which_config_map_is_meant(
    stage: Stage, error: HttpError, named: str
) -> None:
    source = {"envFrom": [{"configMapRef": {"name": "settings"}}]}
    stage.write("Deployment", "puller", spec={"template": {"spec": {"containers": [source]}}})
    stage.store.refusals["GET", "/apis/apps/v1/namespaces/a/deployments/puller"] = error
    stage.controller._named = ""
    assert (stage.controller._is_named(), stage.controller._named) == (bool(named), named)
    stage.store.refusals.clear()
    assert stage.controller._is_named()
    assert stage.controller._named == (named or "settings")


# --- two sets and one DaemonSet --------------------------------------------------------------------------------------


def again(stage: Stage) -> dict[str, str]:
    """The DaemonSets after a controller has started anew, and two passes more."""
    stage.controller = stage.new_controller()
    stage.go_on()
    stage.go_on()
    return stage.daemonsets()


def test_a_daemonset_stays_with_the_set_that_it_was_made_for(stage: Stage) -> None:
    stage.write_set("b", DAEMONSET_NAME="cache")
    stage.go_on()
    stage.write_set("a", DAEMONSET_NAME="cache")
    stage.write_set("main", DAEMONSET_NAME="cache")
    stage.go_on()
    assert stage.daemonsets() == again(stage) == {"cache": "b"}
    refused = "DaemonSet a/cache is that of ConfigMap b. Remedy: write another DAEMONSET_NAME in one of them"
    assert [stage.keeper(name).problems for name in ("main", "a", "b")] == [(refused,), (refused,), ()]


def test_settings_that_cant_be_used_give_no_daemonset_away(running: Stage) -> None:
    running.write_set("b", DAEMONSET_NAME="cache")
    running.write_set("main", DAEMONSET_NAME="cache", CACHING_MEMORY_LIMIT="much")
    running.go_on()
    running.go_on()
    assert running.daemonsets() == again(running) == {"cache": "main"}


@pytest.mark.parametrize("way", ["removed", "renamed"])
def test_a_daemonset_that_is_given_up_is_the_other_sets(running: Stage, way: str) -> None:
    running.write_set("b", DAEMONSET_NAME="cache")
    running.go_on()
    if way == "removed":
        running.remove_set("main")
    else:
        running.write_set("main", DAEMONSET_NAME="renamed")
    for _ in range(4):
        running.go_on()
    assert running.daemonsets() == {"cache": "b"} | ({"renamed": "main"} if way == "renamed" else {})


def test_of_two_that_wish_for_a_daemonset_the_first_by_name_has_it(stage: Stage) -> None:
    stage.store.refusals["PATCH", "/apis/apps/v1/namespaces/a/daemonsets/"] = DENIED
    for name in ("c", "b"):
        stage.write_set(name, DAEMONSET_NAME="cache")
        stage.go_on()
    stage.store.refusals.clear()
    stage.go_on()
    assert stage.daemonsets() == {"cache": "b"}


def test_daemonsets_of_one_name_in_two_namespaces_are_two(running: Stage) -> None:
    running.write_set("b", DAEMONSET_NAME="cache", NAMESPACE="b")
    running.go_on()
    assert running.daemonsets() == {"cache": "main", "b/cache": "b"}


# --- sets that go ----------------------------------------------------------------------------------------------------


class Ended(Exception):
    """Ends a loop."""


def test_a_set_that_goes_while_it_is_judged_leaves_no_metric(running: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, (_keeper, judge) = running.controller, running.controller._sets["main"]

    def judged() -> None:
        running.remove_set("main")
        running.go_on()
        Judge.run(judge)

    def end(*_wait: object) -> None:
        raise Ended

    monkeypatch.setattr(judge, "run", judged)
    monkeypatch.setattr(running.clock, "wait", end)
    with pytest.raises(Ended):
        controller._judge()
    assert judge.digest is not None, "it was judged"
    gauges = [metric for metric in controller.metrics.registry.collect() if metric.type == "gauge"]
    assert not [s for metric in gauges for s in metric.samples if s.labels.get("image_set") == "main"]


@pytest.mark.parametrize("error", [ApiError("no answer"), KeyError("x")])
def test_a_judgement_that_fails_is_made_again_soon(
    running: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    judge = running.controller._sets["main"][1]

    def fail(_self: Judge) -> None:
        raise error

    with monkeypatch.context() as patched, contextlib.suppress(KeyError):
        patched.setattr(Judge, "_judge", fail)
        judge.run()
    assert judge.digest is None
    assert judge.due == running.clock.time + 10
    running.clock.time += 10
    judge.run()
    assert judge.digest is not None


def test_what_was_not_seen_whole_is_looked_at_again_soon_and_then_acted_upon(
    running: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, judge = running.controller._sets["main"]
    healthy = Report("Healthy", ())

    def run(complete: bool) -> None:
        monkeypatch.setattr(Judge, "_view", lambda _self, _settings, _scope, live: View(live, [], healthy, complete))
        running.clock.time += 10
        judge.run()

    run(complete=False)
    assert judge.due == running.clock.time + 10
    keeper.run()
    assert keeper.due > running.clock.time
    run(complete=True)
    assert judge.due > running.clock.time + 100
    assert keeper.due == 0, "it has to decide on what is known now"


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("removed", "its ConfigMap is gone; its DaemonSet goes in 10 s"),
        ("relabelled", "it bears another label"),
        ("denied", "ConfigMaps may not be listed, and only main is kept without that. Its DaemonSet stays"),
    ],
)
def test_why_a_set_is_none_any_more_is_said(
    running: Stage, caplog: pytest.LogCaptureFixture, way: str, why: str
) -> None:
    caplog.set_level("INFO")
    running.write_set("b", DAEMONSET_NAME="b")
    running.go_on()
    if way == "removed":
        running.remove_set("b")
    elif way == "relabelled":
        running.write("ConfigMap", "b", metadata={"labels": {IMAGE_SET: "b", DEPLOYMENT: "another"}}, data={})
    else:
        running.controller._world.config_maps.denied = ApiError("")
    running.go_on(*(["ConfigMap"] if way == "denied" else []))
    assert f"b: no set of this controller any more: {why}" in caplog.messages
    assert "b" in running.daemonsets()


# --- DaemonSets in another namespace ---------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(stage: Stage) -> Stage:
    """With the main set's DaemonSet in the namespace ``b``, beside one of the same set's name that is kept there."""
    stage.write_set("main", NAMESPACE="b", DAEMONSET_NAME="cache")
    stage.go_on()
    theirs = stage.store.objects["/apis/apps/v1/namespaces/b/daemonsets/cache"]
    data = {key: theirs["metadata"][key] for key in ("labels", "managedFields")}
    stage.write("DaemonSet", "theirs", "b", metadata=data, spec=theirs["spec"])
    stage.go_on()
    assert stage.daemonsets() == {"b/cache": "main", "b/theirs": "main"}
    return stage


def test_with_the_config_map_its_daemonset_in_another_namespace_goes(elsewhere: Stage) -> None:
    elsewhere.remove_set("main")
    elsewhere.go_on()
    assert "b/cache" in elsewhere.daemonsets(), "tools replace an object by deleting it first"
    elsewhere.go_on()
    assert elsewhere.daemonsets() == {"b/theirs": "main"}


@pytest.mark.parametrize("where", ["a", "c"])
def test_a_set_that_moves_leaves_nothing_in_its_former_namespace(elsewhere: Stage, where: str) -> None:
    elsewhere.write_set("main", NAMESPACE=where, DAEMONSET_NAME="cache")
    elsewhere.go_on()
    elsewhere.go_on()
    assert elsewhere.daemonsets() == {"cache" if where == "a" else "c/cache": "main", "b/theirs": "main"}


def test_an_uninstall_finds_them_as_far_as_it_may_look(elsewhere: Stage) -> None:
    elsewhere.write_set("main-gpu", DAEMONSET_NAME="gpu")
    elsewhere.go_on()
    elsewhere.remove_set("main")
    elsewhere.remove_set("main-gpu")
    cluster, main = Cluster(Server(elsewhere.store)), ImageSet(OWN, "main", "puller")
    found = [describe(daemonset) for daemonset in installed_daemonsets(cluster, main, ())]
    assert sorted(found) == ["DaemonSet a/gpu", "DaemonSet b/cache"]
    assert not installed_daemonsets(cluster, replace(main, deployment_name="another"), ())
    elsewhere.store.refusals["GET", "/apis/apps/v1/daemonsets"] = HttpError(403, FORBIDDEN)
    assert list(map(describe, installed_daemonsets(cluster, main, ()))) == ["DaemonSet a/gpu"]


def test_a_module_removes_them_when_the_set_moves(elsewhere: Stage) -> None:
    cluster, main = Cluster(Server(elsewhere.store)), ImageSet(OWN, "main", "puller")
    moved = settings(namespace="b", daemonset_name="renamed")
    assert remove_former_daemonsets(cluster, main, moved) == ["DaemonSet b/cache"]
    assert elsewhere.daemonsets() == {"b/theirs": "main"}
