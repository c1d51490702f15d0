# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said where nobody could notice that a tag was moved, or registries do not tell what it stands for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import show_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from controller.asker import Asker
from controller.digest import Told
from controller.metrics import Metrics
from controller.refresher import Refresher
from controller.world import World
from tests.unit import objects
from tests.unit.controller.scripted import BEGAN, Hands, Server
from tests.unit.objects import JAVA, THEIA

TOLD = f"sha256:{'a' * 64}"
LONG_AGO, JUST_NOW = (show_time(BEGAN - timedelta(seconds=age)) for age in (91, 89))


class Stage:
    """The refresher of a set with image volumes, whose reports a test writes; ``said`` is new in the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(
            Cluster(Server(lambda *_asked: {})), Hands(), Metrics(), namespace="a", woken=lambda *_change: None
        )
        self.asker = Asker(world, {}, dict, lambda: None)
        self.refresher = Refresher(world, ImageSet("a", "cache"), self.asker)
        self.world, self.caplog = world, caplog

    def said(self, *rows: Row, inferred: bool = False, refresh: str = "digest") -> list[str]:
        self.caplog.clear()
        settings = objects.settings(strategy="image_volume", refresh=refresh)
        live = objects.served(objects.desired(strategy="image_volume"))
        report = Report("Healthy", (), rows, settings.images, tuple({row.node for row in rows}), inferred=inferred)
        self.refresher._warn(settings, live, report)
        return self.caplog.messages


@pytest.fixture
def stage(caplog: pytest.LogCaptureFixture) -> Stage:
    return Stage(caplog)


def holds(node: str, image: CachedImage = JAVA, digest: str | None = None, since: str = LONG_AGO) -> Row:
    return Row(node, image.name, image.image, "cached", held=True, digest=digest, since=since)


def test_a_digest_that_nodes_do_not_tell_is_said_once_with_their_number(stage: Stage) -> None:
    first = [
        holds("one"),
        holds("one", THEIA, TOLD),
        holds("two"),
        holds("two", THEIA, TOLD),
        holds("three", digest=TOLD),
    ]
    (text,) = stage.said(*first)
    assert text.startswith(
        "the digest of java11 is not told on 2 nodes, so that a moved tag is not noticed there. Remedy: let those"
    )
    assert stage.said(*first) == stage.said(holds("one"), holds("four"), holds("two")) == [], "the nodes come and go"
    (text,) = stage.said(holds("one"), holds("one", THEIA))
    assert text.startswith("the digests of java11, theia are not told on 1 node, ")
    assert stage.said(holds("one", digest=TOLD)) == []
    assert stage.said(holds("one")) != [], "it was told in between"


def test_a_node_that_may_still_tell_is_given_the_time(stage: Stage) -> None:
    assert stage.said(holds("one", since=JUST_NOW)) == []
    assert stage.said(holds("one", since=""), holds("one", THEIA, since=JUST_NOW)) == [], (
        "of one pod the last start counts"
    )
    assert stage.said(holds("one")) != []


def test_nothing_is_said_where_tags_are_not_compared_or_nothing_is_held(stage: Stage) -> None:
    assert stage.said(holds("one"), refresh="never") == stage.said(holds("one"), refresh="restart") == []
    assert stage.said(holds("one")._replace(held=False)) == []


def test_nodes_that_may_not_be_read_are_said_for_what_they_are(stage: Stage) -> None:
    (text,) = stage.said(holds("one"), inferred=True)
    assert text.startswith("only the lists of nodes tell which digest an image volume holds, and they may not be read")
    assert stage.said(holds("one"), inferred=True) == []


def test_tags_that_registries_do_not_tell_are_counted_and_an_event_tells_of_each_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Told] = []
    monkeypatch.setattr(stage.world.recorder, "tell", lambda _about, sentence: told.append(sentence))

    def unknown(*held: CachedImage, refresh: str = "digest") -> tuple[float | None, list[tuple[str, str]]]:
        """The metric, and what is new in the events."""
        told.clear()
        settings, rows = objects.settings(refresh=refresh), tuple(holds("one", image) for image in held)
        live = objects.served(objects.desired())
        stage.refresher._tell_unanswered(settings, live, Report("Healthy", (), rows, settings.images))
        metric = stage.world.metrics.registry.get_sample_value("image_puller_tags_unknown", {"image_set": "cache"})
        return metric, [(each.type, each.reason) for each in told]

    assert unknown(JAVA, THEIA) == (0, [])
    stage.asker.errors = {JAVA.image: "r.io is down", THEIA.image: "r.io is down", "of/another:set": "no"}
    assert unknown(JAVA) == (1, [("Warning", "TagsUnknown")]), "what no node holds can't be old there"
    assert told[0].message == (
        "what tags stand for could not be asked: r.io is down. Until it can, the nodes keep what they have of them"
    )
    assert unknown(JAVA, THEIA) == (2, []), "one reason is told once"
    stage.asker.errors = {JAVA.image: "r.io is down", THEIA.image: "r.io wants a login"}
    assert unknown(JAVA, THEIA) == (2, [("Warning", "TagsUnknown")])
    stage.asker.errors = {}
    assert unknown(JAVA, THEIA) == (0, [("Normal", "TagsKnown")])
    stage.asker.errors = {JAVA.image: "r.io is down"}
    assert unknown(JAVA, refresh="never") == (0, [])
