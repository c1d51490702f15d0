# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that ends a play: written out as a person sees it, and held to its width whatever a registry says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    STATES,
    Report,
    Row,
    failure_sentences,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from ansible_collections.kubecache.image_puller.plugins.module_utils.table import bullet, table, tables

TEAM = "registry.example.com/team"


def row(node: str, name: str, state: str = "cached", **more: Any) -> Row:
    return Row(node, name, f"{TEAM}/{name}:2.1", state, **more)


def told(verdict: str, rows: list[Row], reasons: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """What image_puller_info returns for these rows."""
    images = tuple(dict.fromkeys(CachedImage(r.name, r.image) for r in rows))
    nodes = tuple(dict.fromkeys(r.node for r in rows))
    report = Report(verdict, reasons, tuple(rows), images, nodes, **more)
    daemonset = {"name": "kubernetes-image-puller", "namespace": "k8s-image-puller", "generation": 1}
    return {**report.as_dict(), "problems": [], "settings": None, "daemonset": daemonset}


def test_healthy_is_a_headline_and_a_table() -> None:
    rows = [row(node, name) for name in ("java11", "theia") for node in ("node-1", "node-2")]
    assert table(told("Healthy", rows), 80) == [
        "Healthy: DaemonSet k8s-image-puller/kubernetes-image-puller",
        "2 of 2 images cached on both nodes",
        "",
        "IMAGE  NODES CACHED PULLING WAITING FAILED REASON",
        "java11     2      2       -       -      -",
        "theia      2      2       -       -      -",
    ]


def test_a_tag_that_stands_for_several_images_is_told_with_their_nodes() -> None:
    old, new = (f"sha256:{letter * 64}" for letter in "ab")
    rows = [row(f"node-{n}", "java11", digest=digest) for n, digest in enumerate((old, new, old))]
    assert table(told("Healthy", rows), 80)[-3:] == [
        "",
        "- java11 has 2 digests: sha256:aaaaaaaaaaaa on 2 nodes, sha256:bbbbbbbbbbbb on 1",
        "  node",
    ]


def test_a_failed_image_is_told_with_the_kubelets_words_and_the_remedy() -> None:
    message = 'failed to resolve image "egistry.example.com/team/broker:2.1": dial tcp: lookup egistry: no such host'
    rows = [row("node-1", "java11"), row("node-1", "broker", "failed", class_="unknown_host", message=message)]
    assert table(told("Degraded", rows, tuple(failure_sentences(rows[1:]))), 80) == [
        "Degraded: DaemonSet k8s-image-puller/kubernetes-image-puller",
        "1 of 2 images cached on the node",
        "",
        "IMAGE  NODES CACHED PULLING WAITING FAILED REASON",
        "java11     1      1       -       -      -",
        "broker     1      -       -       -      1 unknown_host",
        "",
        "- broker (registry.example.com/team/broker:2.1) failed on 1 node (node-1):",
        "  unknown_host.",
        "  The kubelet says: failed to resolve image",
        '  "egistry.example.com/team/broker:2.1": dial tcp: lookup egistry: no such host.',
        "  Remedy: correct the registry's host name, or mend the nodes' name service.",
    ]


def test_without_a_daemonset_there_is_no_table() -> None:
    report = {**told("Absent", [], ("the DaemonSet does not exist",)), "daemonset": None}
    assert table(report, 80) == ["Absent: Image Puller", "", "- the DaemonSet does not exist"]


def test_a_problem_of_the_config_map_is_told() -> None:
    report = {**told("Healthy", [row("node-1", "java11")]), "problems": ["IMAGES, entry 2 'theia': there is no '='."]}
    assert table(report, 80)[-1] == "- IMAGES, entry 2 'theia': there is no '='."


def test_what_is_waited_for_is_told_once_for_all_images() -> None:
    message = "0/1 nodes are available: 1 Insufficient cpu."
    rows = [row("node-1", f"image-{n}", "waiting", reason="Unschedulable", message=message) for n in range(9)]
    lines = table(told("Progressing", rows), 80)
    assert lines[-2:] == [
        "- image-0, image-1, image-2 and 6 more: Unschedulable: 0/1 nodes are available:",
        "  1 Insufficient cpu.",
    ]


def test_nodes_that_do_not_count_are_named_and_counted() -> None:
    rows = [row(f"node-{n}", "java11", "waiting" if n > 1 else "cached") for n in range(1, 7)]
    excused = {f"node-{n}": "the node is not ready" for n in range(2, 7)}
    report = told("Healthy", rows, excused=excused, skipped={"gpu-1": "taint"}, inferred=True)
    assert table(report, 80)[-3:] == [
        "- 5 nodes excused (node-2, node-3, node-4 and 2 more): the node is not ready",
        "- 1 node skipped (gpu-1): taint",
        "- The nodes were not read: what is said of them is inferred from the pods",
    ]


def test_a_taint_for_each_tenant_takes_no_line_for_each() -> None:
    skipped = {f"n-{n:02}": f"taint of team-{n}" for n in range(40)}
    lines = table(told("Healthy", [row("node-1", "java11")], skipped=skipped), 80)
    assert [line for line in lines if "skipped" in line] == [
        *(f"- 1 node skipped (n-{n:02}): taint of team-{n}" for n in range(5)),
        "- 35 nodes skipped (n-05, n-06, n-07 and 32 more): 35 other reasons",
    ]


def test_a_long_name_stands_on_a_line_of_its_own() -> None:
    name = "a" * 63
    lines = table(told("Healthy", [row("node-1", name), row("node-1", "short")]), 80)
    assert name in lines
    assert max(map(len, lines)) <= 80


def test_a_long_reason_is_cut_and_told_in_full_below() -> None:
    trouble = {"reason": "CreateContainerConfigError", "message": "container has runAsNonRoot"}
    lines = table(told("Healthy", [row("node-1", "a-rather-long-name-of-an-image", **trouble)]), 80)
    assert lines[4].endswith("- CreateCont...")
    assert lines[-2:] == [
        "- a-rather-long-name-of-an-image: CreateContainerConfigError: container has",
        "  runAsNonRoot",
    ]


def test_a_reference_longer_than_a_line_is_broken_behind_a_slash() -> None:
    reference = "registry.access.redhat.com/codeready-workspaces/pluginbroker-metadata-rhel8:2.1"
    assert bullet(f"broker ({reference}) failed", 80) == [
        "- broker (registry.access.redhat.com/codeready-workspaces/",
        "  pluginbroker-metadata-rhel8:2.1) failed",
    ]


def test_notes_stand_below_the_table() -> None:
    assert table(told("Healthy", [row("node-1", "java11")]), 80, ["the default list is used"])[-3:] == [
        "java11     1      1       -       -      -",
        "",
        "- the default list is used",
    ]


def test_words_of_a_registry_are_no_commands_to_a_terminal() -> None:
    assert bullet("denied \x1b[2J\x07 für\ndich", 80) == [r"- denied  [2J  f\xfcr dich"]


rows_of_any_state = st.builds(
    row,
    st.sampled_from(["node-1", "node-2", "n" * 200]),
    st.from_regex(r"[a-z0-9]{1,63}", fullmatch=True),
    st.sampled_from(STATES),
    class_=st.none() | st.sampled_from(["not_found", "other"]),
    reason=st.none() | st.text(max_size=40),
    message=st.none() | st.text(max_size=400),
)


@given(st.lists(rows_of_any_state, max_size=6, unique_by=lambda r: (r.node, r.name)), st.integers(60, 200))
@pytest.mark.parametrize("reasons", [(), ("x" * 500,)])
def test_no_line_is_longer_than_the_terminal_or_more_than_ascii(
    reasons: tuple[str, ...], rows: list[Row], width: int
) -> None:
    counted = [r._replace(class_=r.class_ or "other") if r.state == "failed" else r for r in rows]
    for line in table(told("Degraded", counted, reasons), width):
        assert len(line) <= width
        assert line.isascii()
        assert line.isprintable()


def test_several_sets_stand_under_their_headings() -> None:
    main = told("Healthy", [row("node-1", "java11")])
    gpu = told("Degraded", [row("node-2", "cuda", "waiting", reason="Unschedulable")], ("1 node has no pod",))
    sets = [
        {"group": "", "config_map_name": "k8s-image-puller", "report": main},
        {"group": "gpu", "config_map_name": "k8s-image-puller-gpu", "report": gpu},
    ]
    assert tables(sets, 80, ["a note"]) == [
        "1 of 2 sets of images is healthy",
        "",
        "ConfigMap k8s-image-puller",
        "--------------------------",
        "Healthy: DaemonSet k8s-image-puller/kubernetes-image-puller",
        "1 of 1 image cached on the node",
        "",
        "IMAGE  NODES CACHED PULLING WAITING FAILED REASON",
        "java11     1      1       -       -      -",
        "",
        "Group gpu",
        "---------",
        "Degraded: DaemonSet k8s-image-puller/kubernetes-image-puller",
        "0 of 1 image cached on the node",
        "",
        "IMAGE NODES CACHED PULLING WAITING FAILED REASON",
        "cuda      1      -       -       1      - Unschedulable",
        "",
        "- 1 node has no pod",
        "",
        "- a note",
    ]


def test_one_set_needs_no_heading() -> None:
    report = told("Healthy", [row("node-1", "java11")])
    sets = [{"group": "", "config_map_name": "k8s-image-puller", "report": report}]
    assert tables(sets, 80, ["a note"]) == table(report, 80, ["a note"])
