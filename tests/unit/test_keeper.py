# SPDX-License-Identifier: GPL-3.0-or-later
"""Several sets in one result: which they are, and what is said of them together."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Wanted
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, Row
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.keeper import (
    Kept,
    errors_of,
    members_of,
    result_of,
    total,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import GROUP
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import Decision
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage

from .objects import settings

MAIN = ImageSet("ns", "puller", "controller")
LIVE: dict[str, dict[str, Any]] = {
    "puller": {"metadata": {"name": "puller"}, "data": {"IMAGES": "a=r.io/a:1"}},
    "puller-gpu": {"metadata": {"name": "puller-gpu", "labels": {GROUP: "gpu"}}, "data": {"IMAGES": "b=r.io/b:1"}},
    "extra": {"metadata": {"name": "extra"}, "data": {"IMAGES": "not an image"}},
}
MAIN_MEMBER, EXTRA, GPU = members_of(MAIN, LIVE)


def report(verdict: str, *states: str, reasons: tuple[str, ...] = ()) -> Report:
    rows = tuple(Row("node-1", f"i{n}", f"r.io/i{n}:1", state) for n, state in enumerate(states))
    return Report(verdict, reasons, rows, tuple(CachedImage(row.name, row.image) for row in rows), ("node-1",))


def test_the_main_set_comes_first_and_the_others_are_called_by_their_group_or_config_map() -> None:
    assert [(m.image_set.config_map_name, m.group, m.title) for m in members_of(MAIN, LIVE)] == [
        ("puller", "", ""),
        ("extra", "", "set extra"),
        ("puller-gpu", "gpu", "group gpu"),
    ]
    assert all(m.image_set.deployment_name == "controller" for m in members_of(MAIN, LIVE))


def test_what_is_about_to_be_written_counts_and_what_leaves_does_not() -> None:
    wanted = Wanted("puller-cpu", "cpu", settings())
    found = members_of(MAIN, LIVE, [wanted], ["puller-gpu", "extra"])
    assert [member.image_set.config_map_name for member in found] == ["puller", "puller-cpu"]
    assert found[1].reading.settings == wanted.settings


def test_the_worst_verdict_counts_and_numbers_are_added() -> None:
    reports = [report("Healthy", "cached"), report("Degraded", "failed", "cached"), report("Progressing", "pulling")]
    told = total([each.as_dict() for each in reports])
    assert told["verdict"] == "Degraded"
    assert (told["summary"]["cached"], told["summary"]["failed"], told["summary"]["nodes"]) == (2, 1, 3)
    assert total([])["verdict"] == "Absent"


def test_the_result_has_the_strongest_action_and_names_the_sets_of_its_sentences() -> None:
    gone = Change("deleted", "DaemonSet", "DaemonSet ns/old")
    kept = [
        Kept(MAIN_MEMBER, (Change("none", "DaemonSet", ""),)),
        Kept(GPU, (Change("created", "DaemonSet", ""),), ("it does not exist",)),
    ]
    told = result_of(kept, [report("Healthy", "cached"), report("Progressing", reasons=("wait",))], [gone])
    assert told["changed"] is True
    assert told["action"] == "deleted"
    assert told["reasons"] == ["group gpu: it does not exist", "the set of DaemonSet ns/old left the list"]
    assert told["verdict_reasons"] == ["group gpu: wait"]
    assert [set_["action"] for set_ in told["sets"]] == ["none", "created"]
    assert "rows" not in told["sets"][0]["report"]
    assert "report" not in told


def test_one_set_has_the_report_itself() -> None:
    told = result_of([Kept(MAIN_MEMBER)], [report("Healthy", "cached")], several=False)
    assert told["report"]["verdict"] == told["verdict"] == told["sets"][0]["verdict"] == "Healthy"
    assert "report" not in told["sets"][0]


def test_a_set_that_could_not_be_kept_is_told_by_name_and_is_not_healthy() -> None:
    kept = [Kept(MAIN_MEMBER), Kept(GPU, error="it was not made by the Image Puller")]
    told = result_of(kept, [report("Healthy", "cached"), report("Healthy", "cached")])
    assert errors_of(kept) == "group gpu: it was not made by the Image Puller"
    assert told["verdict"] == "Degraded"
    assert told["verdict_reasons"] == ["group gpu: it was not made by the Image Puller"]


def test_settings_that_cannot_be_read_are_told_with_their_problems() -> None:
    assert EXTRA.reading.settings is None
    told = result_of([Kept(EXTRA, error="x")], [Report("InvalidSettings", ("IMAGES ...",))])
    assert told["verdict"] == "InvalidSettings"
    assert told["sets"][0]["daemonset_name"] is None
    assert told["sets"][0]["report"]["problems"][0].startswith("IMAGES, entry 1 'not an image'")


def test_a_pause_of_the_guard_is_in_the_verdict() -> None:
    sentence = "recreating is paused until then"
    paused = Decision("none", ("asked for", sentence), paused=sentence)
    told = result_of([Kept(MAIN_MEMBER, decision=paused)], [report("Healthy", "cached")])
    assert told["verdict"] == "Degraded"
    assert sentence in told["verdict_reasons"]
