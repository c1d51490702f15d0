# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said where nobody could notice that a tag was moved."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import show_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from controller.asker import Asker
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
        self.refresher = Refresher(world, ImageSet("a"), Asker(world, {}, dict, lambda: None))
        self.caplog = caplog

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


def held(node: str, image: CachedImage = JAVA, digest: str | None = None, since: str = LONG_AGO) -> Row:
    return Row(node, image.name, image.image, "cached", held=True, digest=digest, since=since)


def test_a_digest_that_nodes_do_not_tell_is_said_once_with_their_number(stage: Stage) -> None:
    first = [held("one"), held("one", THEIA, TOLD), held("two"), held("two", THEIA, TOLD), held("three", digest=TOLD)]
    (text,) = stage.said(*first)
    assert text.startswith(
        "the digest of java11 is not told on 2 nodes, so that a moved tag is not noticed there. Remedy: let those"
    )
    assert stage.said(*first) == stage.said(held("one"), held("four"), held("two")) == [], "the nodes come and go"
    (text,) = stage.said(held("one"), held("one", THEIA))
    assert text.startswith("the digests of java11, theia are not told on 1 node, ")
    assert stage.said(held("one", digest=TOLD)) == []
    assert stage.said(held("one")) != [], "it was told in between"


def test_a_node_that_may_still_tell_is_given_the_time(stage: Stage) -> None:
    assert stage.said(held("one", since=JUST_NOW)) == []
    assert stage.said(held("one", since=""), held("one", THEIA, since=JUST_NOW)) == [], (
        "of one pod the last start counts"
    )
    assert stage.said(held("one")) != []


def test_nothing_is_said_where_tags_are_not_compared_or_nothing_is_held(stage: Stage) -> None:
    assert stage.said(held("one"), refresh="never") == stage.said(held("one"), refresh="restart") == []
    assert stage.said(held("one")._replace(held=False)) == []


def test_nodes_that_may_not_be_read_are_said_for_what_they_are(stage: Stage) -> None:
    (text,) = stage.said(held("one"), inferred=True)
    assert text.startswith("only the lists of nodes tell which digest an image volume holds, and they may not be read")
    assert stage.said(held("one"), inferred=True) == []
