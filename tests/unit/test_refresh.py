# SPDX-License-Identifier: GPL-3.0-or-later
"""Moved tags: what is done is enough, never too early, and nothing at all where nothing has moved."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import (
    build_daemonsets,
    held_images,
    strategy_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    IMAGE_SET,
    MANAGED_BY,
    REFRESH,
    REFRESH_OF,
    SETTLED,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.refresh import (
    Aim,
    Refresh,
    Settled,
    Wanted,
    build_refresher,
    look_at_digests,
    moving_images,
    next_refresh,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import PATIENCE, allowance
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import selects
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings, from_options, require
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Shared, pod_slimmer
from tests.unit import objects
from tests.unit.objects import JAVA, THEIA, node, pod, running, waiting

NOW = datetime.fromisoformat(objects.NOW.replace("Z", "+00:00"))
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def _digest(letters: str) -> str:
    return f"sha256:{letters}"


@dataclass
class Site:
    """A registry, nodes that hold what they pulled, and a kubelet on each; the set's pods exist from the beginning."""

    names: tuple[str, ...]
    settings: Settings = field(default_factory=objects.settings)
    registry: dict[str, str] = field(default_factory=lambda: {JAVA.name: A, THEIA.name: A})
    down: bool = False
    untold: frozenset[str] = frozenset()  # What the registry does not tell for now, and gives to nodes.
    now: datetime = NOW
    settled: Settled = field(default_factory=Settled)
    restart: bool = False
    blocked: bool = False
    dead: frozenset[str] = frozenset()
    reported: dict[str, str] = field(default_factory=dict)  # Of the registry's digests what nodes say instead.
    exchanged: list[str] = field(default_factory=list)
    asked_at: datetime | None = None  # None: just now.
    events: tuple[dict[str, Any], ...] = ()
    lag: int = 0  # Seconds for which a node's list of images is behind.

    def __post_init__(self) -> None:
        self.live = objects.served(build_daemonsets(self.settings)[0])
        self.listed = strategy_of(self.live["spec"]["template"]["spec"]) == "image_volume"
        self.refresher: dict[str, Any] | None = None
        self.local = {name: dict(self.registry) for name in self.names}
        self.lists = {name: [(self.now, dict(self.registry))] for name in self.names}
        self.holds: dict[str, dict[str, str]] = {}
        self.pods = {name: self._holder(name) for name in self.names}
        self.pulling: dict[str, dict[str, Any]] = {}
        self.most_away = 0
        self.now += timedelta(seconds=90)  # By then the lists of nodes are no older than their pods.

    def _holder(self, name: str, number: int = 0) -> dict[str, Any]:
        self.holds[name] = dict(self.local[name])
        statuses = [self._running(image.name, self.local[name]) for image in self.settings.images]
        created = self.pods[name]["metadata"]["creationTimestamp"] if number else None
        made = self._pod(self.live, name, statuses, f"{name}-{number}")
        made["metadata"]["creationTimestamp"] = created or made["metadata"]["creationTimestamp"]
        return made

    def _running(self, image: str, digests: dict[str, str]) -> dict[str, Any]:
        """A volume's container tells the digest of the helper."""
        status = running(image, "f" * 64 if self.listed else digests[image])
        return status | {"state": {"running": {"startedAt": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}}}

    def _node(self, name: str) -> dict[str, Any]:
        made = node(name, ready=name not in self.dead)
        if self.listed:
            told = [digests for at, digests in self.lists[name] if at <= self.now - timedelta(seconds=self.lag)]
            names = {image.name: image.image for image in self.settings.images}
            made["status"]["images"] = [
                {"names": [f"{names[image].rpartition(':')[0]}@{_digest(digest)}", names[image]]}
                for image, digest in (told or [self.lists[name][0][1]])[-1].items()
            ]
        return made

    def _pod(self, daemonset: dict[str, Any], name: str, statuses: list[dict[str, Any]], uid: str) -> dict[str, Any]:
        generation = daemonset["metadata"]["annotations"]["deprecated.daemonset.template.generation"]
        data = {
            "namespace": self.settings.namespace,
            "labels": {"pod-template-generation": generation},
            "creationTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "ownerReferences": [{"kind": "DaemonSet", "uid": daemonset["metadata"]["uid"]}],
        }
        return pod(name, statuses, daemonset=daemonset, uid=uid, metadata=data)

    def look(self) -> Refresh:
        """What is to be done now."""
        nodes = [self._node(name) for name in self.names]
        pods = [*self.pods.values(), *self.pulling.values()]
        kept = [slim for slim in map(pod_slimmer(Shared()), pods) if slim]  # As the controller has them.
        scene = look_at_digests(self.settings, self.live, self.refresher, kept, nodes, self.now, events=self.events)
        silent = self.down or self.settings.refresh == "restart"
        known = {name: digest for name, digest in self.registry.items() if not silent and name not in self.untold}
        digests = {image.image: _digest(known[image.name]) for image in self.settings.images if image.name in known}
        asked = dict.fromkeys(digests, self.asked_at or self.now + timedelta(seconds=1))
        wanted = Wanted(digests, asked, self.settled, self.restart, self.blocked)
        return next_refresh(scene, self.settings, wanted, self.now, openshift=False)

    def do(self, step: Refresh) -> None:
        """Do it, and let the DaemonSet controller do what it does."""
        if step.action == "apply":
            assert step.aim
            made = objects.served(build_refresher(self.settings, self.live, step.aim, openshift=False))
            made["metadata"] |= {"uid": "refresher", "creationTimestamp": self._began()}
            self.refresher = made
            spec = made["spec"]["template"]["spec"]
            on = {name for name in self.names if selects(spec, node(name))}
            assert on == set(step.aim.nodes)
            self.pulling = {
                name: self.pulling.get(name) or self._pod(made, name, [], f"pull-{name}") for name in sorted(on)
            }
        elif step.action == "exchange":
            for ref in step.pods:
                self._may_go(ref.node)
                assert self.pods[ref.node]["metadata"]["uid"] == ref.uid
                self.exchanged.append(ref.node)
                statuses = [waiting(image.name, "ContainerCreating") for image in self.settings.images]
                self.pods[ref.node] = self._pod(self.live, ref.node, statuses, f"{ref.node}-{len(self.exchanged)}")
            self.most_away = max(self.most_away, sum(not self._holds(name) for name in self.names))
        elif step.action == "settle":
            assert step.settled
            self.settled = step.settled
        elif step.action == "delete":
            self.refresher, self.pulling = None, {}

    def _began(self) -> str:
        if self.refresher:
            return str(self.refresher["metadata"]["creationTimestamp"])
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _may_go(self, name: str) -> None:
        """No pod goes before its node has the new images, and a container holds them."""
        statuses = self.pulling[name]["status"]["containerStatuses"]
        assert statuses, name
        assert all("running" in status["state"] for status in statuses)

    def _holds(self, name: str) -> bool:
        return all("running" in status["state"] for status in self.pods[name]["status"]["containerStatuses"])

    def kubelet(self, name: str) -> None:
        """One node's kubelet works: pulls for the short-lived pod, starts the set's."""
        self.pods[name] = self._holder(name, len(self.exchanged)) if not self._holds(name) else self.pods[name]
        if name in self.pulling and self.refresher:
            names = list(held_images(self.refresher["spec"]["template"]["spec"]))
            if self.down:
                statuses = [waiting(image, "ImagePullBackOff", "connection refused") for image in names]
            else:
                new = {image: self.reported.get(self.registry[image], self.registry[image]) for image in names}
                self.local[name] |= new
                self.lists[name].append((self.now, dict(self.local[name])))
                statuses = [self._running(image, new) for image in names]
            before = self.pulling[name]["status"]["containerStatuses"]
            if not before or "waiting" in before[0]["state"]:
                self.pulling[name]["status"]["containerStatuses"] = statuses

    def settle(self, limit: int = 200) -> list[str]:
        """Go on until nothing more is to be done; the actions."""
        actions: list[str] = []
        for _number in range(limit):
            step = self.look()
            if step.action == "none" and self.refresher is None:
                return actions
            if step.action != "none":
                actions.append(step.action)
                self.do(step)
            for name in self.names:
                self.kubelet(name)
            self.now += timedelta(seconds=5)
        raise AssertionError(f"no end: {actions}")

    def held(self, image: str) -> set[str]:
        """What the set's pods hold of an image."""
        return {digests[image] for digests in self.holds.values()}


NODES = ("n1", "n2", "n3", "n4")


def test_nothing_is_done_where_nothing_has_moved() -> None:
    assert Site(NODES).look() == Refresh()


def test_what_is_not_known_changes_nothing() -> None:
    site = Site(NODES, down=True)
    site.registry[JAVA.name] = B
    assert site.look() == Refresh()


def test_a_reference_with_a_digest_is_never_asked_for() -> None:
    pinned = f"registry.example.com/team/java11@{_digest(A)}"
    settings = objects.settings(images={"pinned": pinned, THEIA.name: THEIA.image})
    assert moving_images(settings) == (THEIA,)


def test_a_moved_tag_is_pulled_on_one_node_first_and_its_pod_exchanged_when_it_is_there() -> None:
    site = Site(NODES, objects.settings(max_unavailable="2"))
    site.registry[JAVA.name] = B
    first = site.look()
    assert first.action == "apply"
    assert first.aim
    assert (first.aim.images, len(first.aim.nodes)) == ({JAVA.name: _digest(B)}, 1)
    assert "java11:2.1 from sha256:aaaaaaaaaaaa to sha256:bbbbbbbbbbbb" in first.reason
    site.do(first)
    assert site.look().action == "none"  # It is being pulled.
    site.kubelet(first.aim.nodes[0])
    second = site.look()
    assert (second.action, [ref.node for ref in second.pods]) == ("exchange", list(first.aim.nodes))
    site.do(second)
    assert site.look().action == "none"  # The new pod is not there yet.
    site.kubelet(first.aim.nodes[0])
    third = site.look()
    assert third.aim
    assert (third.action, len(third.aim.nodes)) == ("apply", 2)
    assert "the new images have reached 1 of 4 nodes" in third.sentence
    site.settle()
    assert site.held(JAVA.name) == {B}
    assert site.held(THEIA.name) == {A}
    assert sorted(site.exchanged) == sorted(NODES)


@given(
    count=st.integers(1, 9),
    part=st.sampled_from(["1", "2", "10%", "50%", "100%"]),
    moves=st.lists(
        st.tuples(st.sampled_from([JAVA.name, THEIA.name]), st.sampled_from([A, B, C])), min_size=1, max_size=4
    ),
    at=st.integers(0, 6),
    strategy=st.sampled_from(["sleep", "image_volume"]),
    lag=st.sampled_from([0, 7, 40]),
)
def test_it_converges_with_one_exchange_for_a_move_and_never_too_many_at_once(
    count: int, part: str, moves: list[tuple[str, str]], at: int, strategy: str, lag: int
) -> None:
    settings = objects.settings(max_unavailable=part, strategy=strategy)
    site = Site(tuple(f"n{number}" for number in range(count)), settings, lag=lag)
    for image, digest in moves:
        site.registry[image] = digest
        if site.listed:  # Of volumes nobody tells what they hold while lists are behind: one move after the other.
            site.settle()
            site.now += timedelta(seconds=90)
            continue
        for _number in range(at):  # The next one moves while this one is on its way.
            site.do(site.look())
            for name in site.names[::2]:
                site.kubelet(name)
            site.now += timedelta(seconds=5)
    site.settle()
    assert site.held(JAVA.name) == {site.registry[JAVA.name]}
    assert site.held(THEIA.name) == {site.registry[THEIA.name]}
    assert site.most_away <= allowance(part, count)
    assert max(map(site.exchanged.count, site.names)) <= len(moves)
    assert site.look() == Refresh()


def test_a_registry_that_goes_away_costs_no_pod_and_no_image() -> None:
    site = Site(NODES)
    site.registry[JAVA.name] = B
    site.do(site.look())
    site.down = True
    first = site.refresher
    assert first
    (canary,) = site.pulling
    site.kubelet(canary)
    assert site.look().action == "none"  # A pull that may still succeed.
    site.now += timedelta(seconds=61)
    given_up = site.look()
    assert (given_up.action, given_up.given_up) == ("delete", (JAVA.image,))
    assert "connection refused" in given_up.reason
    site.do(given_up)
    assert (site.held(JAVA.name), site.exchanged) == ({A}, [])


def test_another_digest_than_the_registry_s_is_believed_after_a_pull_and_costs_one_round() -> None:
    site = Site(NODES, reported={B: A})  # The index has changed for another platform.
    site.registry[JAVA.name] = B
    site.asked_at = NOW - timedelta(seconds=1)
    site.do(site.look())
    for name in site.names:
        site.kubelet(name)
    assert site.look().ask == (JAVA.image,)  # The tag may have been moved since.
    site.asked_at = None
    assert "settle" in site.settle()
    assert site.exchanged == []
    assert site.look() == Refresh()
    kept = {"metadata": {"annotations": {SETTLED: site.settled.annotation()}}}
    assert Settled.read(kept, site.now) == site.settled
    assert Settled.read(kept, site.now + timedelta(days=2)) == Settled()


def test_the_last_start_in_a_pod_tells_when_all_of_it_had_been_pulled() -> None:
    site = Site(NODES, reported={B: A})
    site.registry |= {JAVA.name: B, THEIA.name: B}
    assert "settle" in site.settle()
    assert site.exchanged == []
    assert site.settled.entries.keys() == {JAVA.image, THEIA.image}


def test_what_was_begun_is_not_taken_for_done_because_the_registry_does_not_answer_any_more() -> None:
    site = Site(NODES)
    site.registry[JAVA.name] = B
    site.do(site.look())
    (canary,) = site.pulling
    site.untold = frozenset({JAVA.name})
    site.kubelet(canary)
    site.do(site.look())
    site.kubelet(canary)
    more = site.look()
    assert more.aim
    assert more.action == "apply"
    assert "the new images have reached 1 of 4 nodes" in more.sentence


@pytest.mark.parametrize("refused", ["", "exceeded quota: few"])
def test_why_there_was_no_room_is_told(refused: str) -> None:
    site = Site(NODES)
    site.registry[JAVA.name] = B
    site.do(site.look())
    if refused:
        site.pulling = {}
        site.events = ({"reason": "FailedCreate", "message": f"Error creating: {refused}", "metadata": {}},)
    else:
        unmet = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu."}
        (name,) = site.pulling
        site.pulling[name]["status"] = {"phase": "Pending", "conditions": [unmet]}
    site.now += timedelta(seconds=PATIENCE + 1)
    step = site.look()
    assert (step.action, step.given_up) == ("delete", (JAVA.image,))
    assert (refused or "Insufficient cpu.") in step.reason


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": {"digest": "d", "nodes": "n", "at": "now"}}'])
def test_what_was_tampered_with_is_treated_as_absent(text: str) -> None:
    assert Settled.read({"metadata": {"annotations": {SETTLED: text}}}, NOW) == Settled()
    assert Aim.read({"metadata": {"annotations": {REFRESH: text}}}) is None


def test_all_are_pulled_anew_and_exchanged_where_that_is_asked_for() -> None:
    site = Site(NODES, objects.settings(refresh="restart"), restart=True)
    site.now += timedelta(seconds=5)
    first = site.look()
    assert first.aim
    assert first.aim.images == {JAVA.name: "", THEIA.name: ""}
    site.do(first)
    site.restart = False
    site.settle()
    assert sorted(site.exchanged) == sorted(NODES)
    assert site.most_away == 1


def test_never_ends_what_is_under_way_and_begins_nothing() -> None:
    site = Site(NODES)
    site.registry[JAVA.name] = B
    site.do(site.look())
    site.settings = replace(site.settings, refresh="never")
    assert site.look().action == "delete"
    site.refresher = None
    assert site.look() == Refresh()


def test_another_change_goes_first() -> None:
    site = Site(NODES, blocked=True)
    site.registry[JAVA.name] = B
    assert site.look() == Refresh()


def test_a_changed_list_ends_a_refresh_that_is_under_way() -> None:
    site = Site(NODES)
    site.registry[JAVA.name] = B
    site.do(site.look())
    site.settings = replace(site.settings, images=(THEIA,))
    assert site.look().action == "delete"


def test_a_dead_node_is_left_alone_and_stalls_nothing() -> None:
    site = Site(NODES, dead=frozenset({"n1"}))
    site.registry[JAVA.name] = B
    site.settle()
    assert sorted(site.exchanged) == ["n2", "n3", "n4"]


def test_what_a_node_has_for_its_image_volume_is_held_before_the_tag_is_followed_further() -> None:
    site = Site(("n1",), objects.settings(strategy="image_volume"))
    site.registry[JAVA.name] = B
    site.do(site.look())
    site.now += timedelta(seconds=5)
    site.kubelet("n1")
    site.registry[JAVA.name] = C
    site.lag = 30
    assert site.look().action == "none"  # The list is behind.
    site.now += timedelta(seconds=30)
    step = site.look()
    assert step.action == "exchange"
    site.do(step)
    assert site.look().action == "delete"
    site.do(site.look())
    site.kubelet("n1")
    assert site.look() == Refresh()  # The new pod is younger than what the list tells for certain.
    site.now += timedelta(seconds=90)
    site.settle()
    assert site.held(JAVA.name) == {C}


@given(options=objects.good_options)
def test_the_short_lived_one_is_the_set_s_own_but_for_few_images_and_nodes(options: dict[str, Any]) -> None:
    settings = require(from_options(options))
    live = objects.served(build_daemonsets(settings)[0])
    aim = Aim({settings.images[0].name: _digest(A)}, ("n1", "n2"), NOW)
    made = build_refresher(settings, live, aim, openshift=False)
    spec, own = made["spec"]["template"]["spec"], live["spec"]["template"]["spec"]
    assert held_images(spec) == {settings.images[0].name: settings.images[0].image}
    assert strategy_of(spec) == strategy_of(own)
    (container,) = spec["containers"]
    if strategy_of(own) == "image_volume":
        (volume,) = spec["volumes"]
        assert (volume["image"]["pullPolicy"], container["imagePullPolicy"]) == ("Always", "IfNotPresent")
    else:
        assert container["imagePullPolicy"] == "Always"
        assert spec["initContainers"][0]["imagePullPolicy"] == "IfNotPresent"
    for key in ("nodeSelector", "tolerations", "imagePullSecrets", "priorityClassName", "serviceAccountName"):
        assert spec.get(key) == (own.get(key) or None), key
    assert made["metadata"]["ownerReferences"][0]["uid"] == live["metadata"]["uid"]
    assert made["spec"]["updateStrategy"] == {"type": "OnDelete"}
    labels = made["metadata"]["labels"]
    assert labels[REFRESH_OF] == settings.daemonset_name
    assert not {MANAGED_BY, IMAGE_SET} & set(labels)
    there = [node(name, labels=dict(settings.node_selector)) for name in ("n1", "n2", "n3")]
    assert [selects(spec, each) for each in there[:2]] == [selects(own, each) for each in there[:2]]
    assert not selects(spec, there[2])
    assert json.loads(made["metadata"]["annotations"][REFRESH])["nodes"] == ["n1", "n2"]
    assert Aim.read(made) == aim
