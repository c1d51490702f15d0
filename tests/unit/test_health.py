# SPDX-License-Identifier: GPL-3.0-or-later
"""From what kubelets and the control plane say to the state of each image on each node, and to one verdict.

The texts are those that real kubelets, containerd, CRI-O and registries wrote.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.events import go_seconds
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    PERMANENT,
    REMEDIES,
    STATES,
    Report,
    Row,
    assess,
    classify,
    failure_sentences,
    not_followed,
    pod_node,
    publish,
    pull_failure,
    read_published,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from ansible_collections.kubecache.image_puller.plugins.module_utils.table import table
from tests.unit import objects
from tests.unit.objects import JAVA, THEIA, event, node, pod, running, waiting

NOW = datetime.fromisoformat(objects.NOW.replace("Z", "+00:00"))
IMAGES = (JAVA, THEIA)
NOT_FOUND = (
    'rpc error: code = NotFound desc = failed to pull and unpack image "registry.example.com/team/java11:2.1": '
    "failed to resolve image: registry.example.com/team/java11:2.1: not found"
)
UNKNOWN_HOST = (
    'failed to pull and unpack image "egistry.access.redhat.com/codeready-workspaces/x:2.1": failed to resolve '
    'reference "egistry.access.redhat.com/codeready-workspaces/x:2.1": failed to do request: Head '
    '"https://egistry.access.redhat.com/v2/codeready-workspaces/x/manifests/2.1": dial tcp: lookup '
    "egistry.access.redhat.com on 10.0.0.10:53: no such host"
)
NO_PLATFORM = f'failed to pull and unpack image "{JAVA.image}": no match for platform in manifest: not found'


def _daemonset(generation: int = 1, observed: int = 1, desired: int = 1, **metadata: Any) -> dict[str, Any]:
    live = objects.served(objects.desired())
    live["metadata"] |= {"generation": generation, **metadata}
    live["status"] = {"observedGeneration": observed, "desiredNumberScheduled": desired}
    return live


def _assess(
    pods: Sequence[Any] = (), nodes: Sequence[Any] | None = (node(),), events: Sequence[Any] = (), **more: Any
) -> Report:
    return assess(IMAGES, more.get("daemonset", _daemonset()), pods, nodes, events, now=NOW)


def _java(*statuses: Any, events: Sequence[Any] = (), nodes: Sequence[Any] = (node(),), **more: Any) -> Row:
    """The row of the first image on the first node."""
    return _assess([pod(statuses=statuses, **more)], nodes, events).rows[0]


# --- classes of failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "message", "class_"),
    [
        ("ErrImagePull", NOT_FOUND, "not_found"),
        ("ImagePullBackOff", f'Back-off pulling image "r.io/x:1": ErrImagePull: {NOT_FOUND}', "not_found"),
        ("ErrImagePull", "reading manifest 9 in quay.io/team/x: manifest unknown", "not_found"),
        ("ErrImagePull", "name unknown: The repository does not exist in the registry", "not_found"),
        ("ErrImagePull", "NAME_UNKNOWN: repository name not known to registry", "not_found"),
        (
            "InvalidImageName",
            'Failed to apply default image tag "r.io/X:1": couldn\'t parse image name "r.io/X:1": invalid reference '
            "format: repository name (X) must be lowercase",
            "invalid_name",
        ),
        (
            "ErrImagePull",
            'failed to resolve reference "r.io/x:1": pull access denied, repository does not exist or may require '
            "authorization: authorization failed: no basic auth credentials",
            "unauthorized",
        ),
        ("ErrImagePull", "unexpected status from GET request to https://r.io/v2/: 403 Forbidden", "unauthorized"),
        ("ErrImagePull", "unauthorized: access to the requested resource is not authorized", "unauthorized"),
        ("ErrImagePull", 'denied: Permission "download" denied on resource (or it may not exist)', "unauthorized"),
        ("ErrImageNeverPull", 'Container image "r.io/x:1" is not present with pull policy of Never', "unauthorized"),
        ("ErrImagePull", UNKNOWN_HOST, "unknown_host"),
        ("ErrImagePull", "dial tcp: lookup r.io on 10.0.0.10:53: server misbehaving", "unknown_host"),
        (
            "ErrImagePull",
            "dial tcp: lookup r.io on 10.0.0.10:53: read udp 10.0.0.2:41->10.0.0.10:53: read: connection refused",
            "unknown_host",
        ),
        ("ErrImagePull", "dial tcp 10.0.0.9:443: connect: connection refused", "network"),
        ("ErrImagePull", 'Get "https://r.io/v2/": net/http: TLS handshake timeout', "network"),
        ("ErrImagePull", "dial tcp 10.0.0.9:443: i/o timeout", "network"),
        ("ErrImagePull", "tls: failed to verify certificate: x509: certificate signed by unknown authority", "network"),
        ("ErrImagePull", "http: server gave HTTP response to HTTPS client", "network"),
        (
            "ErrImagePull",
            "unexpected status from HEAD request to https://r.io/v2/x: 503 Service Unavailable",
            "network",
        ),
        ("ErrImagePull", "failed to copy: httpReadSeeker: failed open: unexpected EOF", "network"),
        ("RegistryUnavailable", "", "network"),
        (
            "ErrImagePull",
            "429 Too Many Requests: toomanyrequests: You have reached your pull rate limit. You may increase the limit "
            "by authenticating and upgrading: https://www.docker.com/increase-rate-limit",
            "rate_limit",
        ),
        ("ErrImagePull", "failed to extract layer sha256:0: write /a: no space left on device: unknown", "no_space"),
        ("ErrImagePull", NO_PLATFORM, "no_platform"),
        ("ErrImagePull", "no matching manifest for linux/arm64/v8 in the manifest list entries", "no_platform"),
        (
            "ErrImagePull",
            "choosing an image from manifest list docker://r.io/x:1: no image found in image index for architecture "
            '"arm64", variant "v8", OS "linux"',
            "no_platform",
        ),
        ("ErrImagePull", "failed to extract layer sha256:0: archive/tar: invalid tar header: unknown", "runtime"),
        ("ErrImagePull", "failed to extract layer sha256:0: open /var/lib/x: permission denied: unknown", "runtime"),
        ("ErrImagePull", "failed to extract layer sha256:0: unexpected EOF", "runtime"),
        ("SignatureValidationFailed", "a signature was required, but no signature exists", "runtime"),
        ("ErrImagePull", "something that nobody has ever seen", "other"),
        ("", "", "other"),
    ],
)
def test_a_failure_has_the_class_of_its_cause(reason: str, message: str, class_: str) -> None:
    assert classify(reason, message) == class_


@pytest.mark.parametrize(
    "image",
    ["r.io/team/denied:1", "r.io/not-found:429", "r.io/forbidden/eof:1", "r.io/x509:timeout", "unauthorized:latest"],
)
def test_the_name_of_an_image_says_nothing_of_its_failure(image: str) -> None:
    message = f'failed to pull and unpack image "{image}": failed to resolve image: r.io/{image}: odd'
    assert classify("ErrImagePull", message) == "other"
    assert classify("ErrImagePull", message.replace("odd", "no such host")) == "unknown_host"


@given(st.text(), st.text())
def test_any_failure_has_a_class_and_each_class_a_remedy(reason: str, message: str) -> None:
    assert classify(reason, message) in REMEDIES
    assert set(REMEDIES) > PERMANENT


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (waiting("a", "ErrImagePull", NOT_FOUND), ("not_found", NOT_FOUND)),
        (waiting("a", "RegistryUnavailable"), ("network", "RegistryUnavailable")),
        (waiting("a", "ErrImagePull", "pull QPS exceeded"), None),
        (waiting("a", "ContainerCreating"), None),
        (running("a"), None),
        ({}, None),
    ],
)
def test_a_container_status_tells_of_a_failed_pull_only(status: Any, failure: object) -> None:
    assert pull_failure(status) == failure


# --- one image on one node -------------------------------------------------------------------------------------------


def test_a_running_container_holds_its_image_there() -> None:
    row = _java(running("java11"))
    assert (row.state, row.held, row.since) == ("cached", True, objects.NOW)
    assert row.digest == "sha256:" + "a" * 64
    assert (row.class_, row.reason, row.message) == (None, None, None)


def test_an_image_is_there_only_if_it_is_the_locked_one() -> None:
    there, other, platform = (f"sha256:{letter * 64}" for letter in "abc")
    pods = [pod(statuses=[running("java11"), running("theia")])]

    def judged(*digests: str) -> Report:
        return assess(IMAGES, _daemonset(), pods, [node()], now=NOW, locked={JAVA.image: digests})

    assert judged(there).verdict == judged(platform, there).verdict == "Healthy"
    report = judged(other)
    assert [(row.state, row.class_, row.held) for row in report.rows] == [
        ("failed", "other_digest", False),
        ("cached", None, True),
    ]
    assert report.verdict == "Degraded"
    (sentence,) = report.reasons
    assert sentence.startswith(
        f"java11 ({JAVA.image}) failed on 1 node (node-1): other_digest. The node has {there}, and the lock {other}. "
        "Remedy: if it is the right one, write the lock anew"
    )


def test_an_image_of_which_nobody_has_told_which_it_is_is_waited_for() -> None:
    pods = [pod(statuses=[waiting("java11", "CreateContainerConfigError", "as root"), running("theia")])]
    report = assess(IMAGES, _daemonset(), pods, [node()], now=NOW, locked={JAVA.image: ("sha256:" + "a" * 64,)})
    assert (report.rows[0].state, report.rows[0].reason) == ("waiting", "Untold")
    assert report.verdict == "Progressing"
    assert "which image it has" in report.reasons[0]


def _mounted(locked: str, nodes: Sequence[Any] | None, *, after: float, told: bool = True) -> Report:
    """One image in an image volume, so many seconds after its container was started; ``told``: by its status, too."""
    live = objects.served(objects.desired(images={JAVA.name: JAVA.image}, strategy="image_volume"))
    live["status"] = {"observedGeneration": 1, "desiredNumberScheduled": 1}
    it = pod(daemonset=live, statuses=[running("java11") if told else waiting("java11", "ContainerCreating")])
    started = event(f'Container image "{JAVA.image}" already present on machine', reason="Pulled")
    started["involvedObject"]["fieldPath"] = "spec.containers{java11}"
    events = [started, started | {"message": "Container started", "reason": "Started"}]
    now = NOW + timedelta(seconds=after)
    return assess([JAVA], live, [it], nodes, events, now=now, locked={JAVA.image: (locked,)})


def test_a_digest_that_a_node_never_lists_is_not_waited_for_for_ever() -> None:
    locked, others = f"sha256:{'a' * 64}", [node(images=["r.io/larger:1"])]
    early = _mounted(locked, others, after=90)
    assert (early.verdict, early.rows[0].state, early.rows[0].reason) == ("Progressing", "waiting", "Untold")
    late = _mounted(locked, others, after=91)
    (row,) = late.rows
    assert (row.state, row.held, row.reason, row.digest) == ("cached", True, "NotCompared", None)
    why = "could not be compared with the lock: nobody tells which image the node has under this name"
    assert (late.verdict, late.reasons, row.message) == (
        "Healthy",
        (f"1 image is cached on 1 node and {why}",),
        why,
    )
    shown = table({**late.as_dict(), "problems": []}, 120)
    assert any(line.startswith("java11") and line.endswith("NotCompared") for line in shown)
    assert sum("could not be compared" in line for line in shown) == 1


def test_where_nodes_may_not_be_read_a_status_without_a_digest_is_the_last_word() -> None:
    locked = f"sha256:{'a' * 64}"
    assert _mounted(locked, None, after=0, told=False).verdict == "Progressing"
    report = _mounted(locked, None, after=0)
    assert (report.verdict, report.rows[0].reason) == ("Healthy", "NotCompared")


def test_of_an_image_with_several_digests_one_has_to_be_the_locked_one() -> None:
    listed, other = [f"sha256:{letter * 64}" for letter in "ab"], f"sha256:{'c' * 64}"
    nodes = [node()]
    nodes[0]["status"]["images"] = [{"names": [*(f"r.io/team/java11@{digest}" for digest in listed), JAVA.image]}]
    report = _mounted(listed[1], nodes, after=0)
    assert (report.verdict, report.reasons, report.rows[0].digest) == ("Healthy", (), listed[1])
    report = _mounted(other, nodes, after=0)
    assert (report.rows[0].class_, report.verdict) == ("other_digest", "Degraded")
    assert f"The node has {listed[0]} and {listed[1]}, and the lock {other}. Remedy: " in report.reasons[0]


def test_of_a_container_s_image_each_digest_that_the_node_lists_with_its_own_will_do() -> None:
    told, locked, other = (f"sha256:{letter * 64}" for letter in "abc")
    nodes = [node()]
    nodes[0]["status"]["images"] = [{"names": [f"mirror.example.com/java11@{locked}", f"r.io/team/java11@{told}"]}]
    pods = [pod(statuses=[running("java11"), running("theia", "d" * 64)])]

    def judged(digest: str) -> Report:
        return assess(IMAGES, _daemonset(), pods, nodes, now=NOW, locked={JAVA.image: (digest,)})

    assert (judged(locked).verdict, judged(locked).rows[0].digest) == ("Healthy", locked)
    assert judged(told).verdict == "Healthy"
    assert f"The node has {told} and {locked}, and the lock {other}." in judged(other).reasons[0]
    # Under the name that consumers use there is the locked image now, and the container holds another one.
    nodes[0]["status"]["images"] = [{"names": [f"r.io/team/java11@{locked}", JAVA.image]}]
    assert judged(locked).rows[0].class_ == "other_digest"


@pytest.mark.parametrize("image_id", ["sha256:{}", "docker://sha256:{}", "{}"])
def test_the_id_of_an_imported_image_is_no_digest_and_fails_no_lock(image_id: str) -> None:
    locked = f"sha256:{'a' * 64}"
    status = {**running("java11"), "imageID": image_id.format("c" * 64)}
    pods = [pod(statuses=[status, running("theia")])]

    def judged(images: Sequence[str], after: float) -> Report:
        now = NOW + timedelta(seconds=after)
        nodes = [node()]
        nodes[0]["status"]["images"] = [{"names": list(images)}]
        return assess(IMAGES, _daemonset(), pods, nodes, now=now, locked={JAVA.image: (locked,)})

    assert _java(status).digest is None
    assert judged([JAVA.image], 0).rows[0].state == "waiting"
    late = judged([JAVA.image], 91)
    assert (late.verdict, late.rows[0].reason) == ("Healthy", "NotCompared")
    listed = judged([JAVA.image, f"r.io/team/java11@{locked}"], 0)
    assert (listed.verdict, listed.rows[0].digest) == ("Healthy", locked)


@pytest.mark.parametrize(
    ("status", "held", "reason"),
    [
        (
            waiting("java11", "RunContainerError", "exec: no such file", image_id="r.io/a@sha256:" + "b" * 64),
            True,
            "RunContainerError",
        ),
        (
            waiting("java11", "CrashLoopBackOff", "back-off", image_id="r.io/a@sha256:" + "b" * 64),
            True,
            "CrashLoopBackOff",
        ),
        (
            waiting("java11", "CreateContainerConfigError", "image will run as root"),
            False,
            "CreateContainerConfigError",
        ),
        (waiting("java11", "CreateContainerError", "x"), False, "CreateContainerError"),
    ],
)
def test_an_image_whose_container_can_not_run_is_cached_all_the_same(status: Any, held: bool, reason: str) -> None:
    row = _java(status)
    assert (row.state, row.held, row.reason) == ("cached", held, reason)


def test_why_a_container_ended_is_told() -> None:
    status = waiting("java11", "RunContainerError", image_id="r.io/a@sha256:" + "b" * 64)
    status["lastState"] = {"terminated": {"reason": "StartError", "exitCode": 128, "message": "exec failed"}}
    row = _java(status)
    assert (row.state, row.reason, row.message) == ("cached", "RunContainerError", "exec failed")


def test_an_image_that_went_while_its_dead_container_is_remembered_has_failed() -> None:
    row = _java(waiting("java11", "ErrImagePull", NOT_FOUND, image_id="r.io/a@sha256:" + "b" * 64))
    assert (row.state, row.class_, row.held) == ("failed", "not_found", False)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_a_failed_pull_is_failed_in_both_of_its_alternating_reasons(reason: str) -> None:
    row = _java(waiting("java11", reason, NOT_FOUND))
    assert (row.state, row.class_, row.reason, row.message) == ("failed", "not_found", reason, NOT_FOUND)


def test_a_back_off_without_a_cause_takes_it_from_the_event_before() -> None:
    failed = event(f'Failed to pull image "{JAVA.image}": {NOT_FOUND}')
    row = _java(waiting("java11", "ImagePullBackOff", f'Back-off pulling image "{JAVA.image}"'), events=[failed])
    assert (row.state, row.class_, row.message) == ("failed", "not_found", NOT_FOUND)


@pytest.mark.parametrize(
    "message", ["pull QPS exceeded", 'Back-off pulling image "x": ErrImagePull: pull QPS exceeded']
)
def test_a_kubelet_that_spaces_its_pulls_has_not_failed(message: str) -> None:
    assert _java(waiting("java11", "ErrImagePull", message)).state == "waiting"
    helper = {"initContainerStatuses": [waiting("copy-sleep", "ErrImagePull", message)]}
    assert _java(waiting("java11", "PodInitializing"), status=helper).state == "waiting"


@pytest.mark.parametrize("status", ["pull QPS exceeded", 'Back-off pulling image "x": ErrImagePull: pull QPS exceeded'])
def test_a_try_that_was_not_its_turn_does_not_undo_the_answer_to_a_former_one(status: str) -> None:
    """Tried again among many, the kubelet puts off an image of which the registry has said that it isn't there."""
    pull = f'Failed to pull image "{JAVA.image}": '
    messages = [PULLING, f"{pull}{NOT_FOUND}", PULLING, f"{pull}pull QPS exceeded"]
    told = [event(message, at=f"2026-11-20T11:59:{number:02}Z") for number, message in enumerate(messages)]
    for order in itertools.permutations(told):
        row = _java(waiting("java11", "ErrImagePull", status), events=order)
        assert (row.state, row.class_, row.message, row.tries) == ("failed", "not_found", NOT_FOUND, 1)


def test_waiting_in_the_kubelets_first_pass_means_not_known_yet() -> None:
    row = _java(waiting("java11", "ContainerCreating"))
    assert (row.state, row.reason, row.message, row.held) == ("waiting", "Untold", None, False)


PULLING = f'Pulling image "{JAVA.image}"'
PULLED = f'Successfully pulled image "{JAVA.image}" in 33ms (61ms including waiting). Image size: 1185181 bytes.'


@pytest.mark.parametrize(
    ("events", "state", "seconds", "size"),
    [
        ([PULLING], "pulling", None, None),
        ([PULLING, PULLED], "cached", 0.033, 1185181),
        ([PULLED.replace("33ms", "1m2.5s")], "cached", 62.5, 1185181),
        ([f'Successfully pulled image "{JAVA.image}" in 1.5s (2s including waiting)'], "cached", 1.5, None),
        ([f'Successfully pulled image "{JAVA.image}" in 33.1ms'], "cached", 0.0331, None),
        ([f'Successfully pulled image "{JAVA.image}"'], "cached", None, None),
        ([f'Container image "{JAVA.image}" already present on machine'], "cached", None, None),
        (
            [f'Container image "{JAVA.image}" already present on machine and can be accessed by the pod'],
            "cached",
            None,
            None,
        ),
        ([PULLED, f'Container image "{JAVA.image}" already present on machine'], "cached", 0.033, 1185181),
        ([PULLING, f'Failed to pull image "{JAVA.image}": {NOT_FOUND}'], "failed", None, None),
        ([PULLING, f'Failed to pull image "{JAVA.image}": pull QPS exceeded'], "waiting", None, None),
        ([f'Failed to pull image "{JAVA.image}": x', PULLING], "pulling", None, None),
        ([f'Pulling image "{THEIA.image}"'], "waiting", None, None),
    ],
)
def test_events_tell_before_the_container_statuses_do(
    events: list[str], state: str, seconds: float | None, size: int | None
) -> None:
    told = [event(message, at=f"2026-11-20T11:59:{number:02}Z") for number, message in enumerate(events)]
    for order in (told, told[::-1]):
        row = _java(waiting("java11", "ContainerCreating"), events=order)
        assert (row.state, row.pull_seconds, row.size) == (state, seconds, size)


def test_events_of_another_pod_tell_nothing_of_this_one() -> None:
    assert _java(waiting("java11", "ContainerCreating"), events=[event(PULLED, uid="old-pod")]).state == "waiting"


def test_the_statuses_have_the_last_word_and_events_add_what_they_know() -> None:
    row = _java(running("java11"), events=[event(PULLED)])
    assert (row.state, row.held, row.pull_seconds, row.size) == ("cached", True, 0.033, 1185181)
    assert _java(waiting("java11", "ErrImagePull", NOT_FOUND), events=[event(PULLING)]).state == "failed"


@pytest.mark.parametrize("listed", [JAVA.image, "docker.io/library/java11:2.1"])
def test_a_node_that_lists_the_image_has_it(listed: str) -> None:
    image = CachedImage("java11", "java11:2.1") if "docker" in listed else JAVA
    daemonset = objects.desired(images={"java11": image.image})
    pods = [pod(daemonset=daemonset, statuses=[waiting("java11", "ContainerCreating")])]
    (row,) = assess([image], _daemonset(), pods, [node(images=[listed])], now=NOW).rows
    assert (row.state, row.held) == ("cached", False)


def test_a_node_that_lists_no_image_proves_nothing() -> None:
    assert _java(running("java11"), nodes=[node(images=["other:1"])]).state == "cached"


def test_a_list_does_not_hide_that_a_pull_fails() -> None:
    row = _java(waiting("java11", "ErrImagePull", NOT_FOUND), nodes=[node(images=[JAVA.image])])
    assert row.state == "failed"


def test_disk_pressure_takes_the_cache_back_and_that_is_no_failure() -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node had condition: [DiskPressure]. "}
    report = _assess([pod(status=evicted)])
    assert {row.state for row in report.rows} == {"released"}
    assert (report.verdict, report.reasons) == ("Healthy", ("the cache was given back on 1 node under pressure",))


def test_a_helper_that_can_not_be_pulled_fails_every_image_and_is_named() -> None:
    helper = waiting("copy-sleep", "ErrImagePull", NOT_FOUND) | {"image": "r.io/helper:1"}
    report = _assess([pod(statuses=[waiting("java11", "PodInitializing")], status={"initContainerStatuses": [helper]})])
    assert [(row.state, row.class_) for row in report.rows] == [("failed", "not_found")] * 2
    assert report.rows[0].message == f"helper image r.io/helper:1: {NOT_FOUND}"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "cpu"}]},
            "Unschedulable",
            "cpu",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "x"}]},
            "SchedulingGated",
            "x",
        ),
        ({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected"}, "OutOfcpu", "Pod was rejected"),
    ],
)
def test_a_pod_that_does_not_start_says_why(status: Any, reason: str, message: str) -> None:
    row = _java(status=status)
    assert (row.state, row.reason, row.message) == ("waiting", reason, message)


def test_a_node_without_a_pod_and_a_pod_of_the_former_list_are_still_waiting() -> None:
    assert [row.reason for row in _assess([]).rows] == ["NoPod", "NoPod"]
    former = pod(daemonset=objects.desired(images="java11=r.io/java11:1"), statuses=[running("java11")])
    assert [row.reason for row in _assess([former]).rows] == ["OldRevision", "OldRevision"]


def test_images_that_are_there_are_not_healthy_before_something_holds_them() -> None:
    """An image that the node lists and no container holds may be collected at any time."""
    listed = node(images=[image.image for image in IMAGES])
    report = _assess([], [listed])
    assert [(row.state, row.held) for row in report.rows] == [("cached", False), ("cached", False)]
    assert report.verdict == "Progressing"
    assert report.reasons == ("2 images are there and not held yet on 1 node",)
    held = _assess([pod(statuses=[running(image.name) for image in IMAGES])], [listed])
    assert held.verdict == "Healthy"


def test_a_container_that_cannot_be_created_keeps_nothing_from_being_healthy() -> None:
    """Its image is on the node, and neither waiting nor making the DaemonSet again would help."""
    report = _assess([pod(statuses=[waiting("java11", "CreateContainerConfigError"), running("theia")])])
    assert [(row.state, row.held) for row in report.rows] == [("cached", False), ("cached", True)]
    assert report.verdict == "Healthy"


def test_a_running_container_holds_its_image_also_where_no_digest_is_told() -> None:
    row = _java({**running("java11"), "imageID": ""})
    assert (row.state, row.held, row.digest) == ("cached", True, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("33ms", 0.033), ("1m2.5s", 62.5), ("1h0m0s", 3600), ("250µs", 0.00025), ("5", None), ("", None), ("1m x", None)],
)
def test_durations_are_gos(text: str, seconds: float | None) -> None:
    assert go_seconds(text) == seconds


# --- which pod, which node -------------------------------------------------------------------------------------------


def test_a_pod_belongs_to_its_node_also_before_it_is_bound() -> None:
    fields = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [fields]}}
    assert pod_node({"spec": {"affinity": {"nodeAffinity": required}}}) == "node-7"
    assert pod_node(pod("node-3")) == "node-3"
    assert pod_node({"spec": {}}) is None


def test_of_several_pods_of_a_node_the_living_youngest_counts() -> None:
    going = pod(
        statuses=[running("java11")], metadata={"deletionTimestamp": objects.NOW, "creationTimestamp": "2026-11-20"}
    )
    failed = pod(status={"phase": "Failed", "reason": "Evicted"}, metadata={"creationTimestamp": "2026-11-19"})
    old = pod(statuses=[waiting("java11", "Old")], metadata={"creationTimestamp": "2026-11-17"})
    young = pod(statuses=[waiting("java11", "Young")], metadata={"creationTimestamp": "2026-11-18"})
    for pods in ([going, failed, old, young], [young, old, failed, going]):
        assert _assess(pods).rows[0].reason == "Young"


GPU = {"key": "gpu", "value": "a100", "effect": "NoSchedule"}


def test_a_tainted_node_is_skipped_with_the_toleration_that_it_needs() -> None:
    report = _assess([], [node(), node("gpu-1", taints=[GPU])])
    assert report.nodes == ("node-1",)
    needed = '[{"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"}]'
    assert report.skipped == {"gpu-1": f"taint; needed toleration: {needed}"}


NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("it", "has_pod", "why"),
    [
        (node("n2", ready=False), True, "the node is not ready"),
        (node("n2", ready=False, taints=[NOT_READY]), True, "the node is not ready"),
        (node("n2", taints=[{"key": "node.cloudprovider.kubernetes.io/uninitialized", "effect": "NoSchedule"}]), False,
         "the node is not ready"),
        (node("n2", deleted=True), True, "the node is going away"),
        (node("n2", taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]), True,
         "the node is going away"),
        (node("n2", taints=[{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]), True,
         "the node is going away"),
        (node("n2", unschedulable=True), False, "the node is cordoned and has no pod"),
        (node("n2", unschedulable=True), True, None),
        (node("n2", created="2026-11-20T11:59:30Z"), False, "the node has just joined"),
        (node("n2", created="2026-11-20T11:59:30"), False, "the node has just joined"),
        (node("n2", created="2026-11-20T11:59:30Z"), True, None),
        (node("n2", created="2026-11-20T11:50:00Z"), False, None),
        (node("n2", created="yesterday"), False, None),
    ],
)  # fmt: skip
def test_nodes_that_can_not_be_blamed_are_excused_and_listed(it: Any, has_pod: bool, why: str | None) -> None:
    good = [running("java11"), running("theia")]
    pods = [pod(statuses=good)] + (
        [pod("n2", statuses=[waiting("java11", "ErrImagePull", NOT_FOUND)])] if has_pod else []
    )
    daemonset = _daemonset(creationTimestamp="2026-11-19T00:00:00Z")
    report = _assess(pods, [node(), it], daemonset=daemonset)
    assert report.excused == ({"n2": why} if why else {})
    assert (report.verdict == "Healthy") is (why is not None)
    assert report.as_dict()["summary"]["excused_nodes"] == len(report.excused)


def test_a_pod_that_terminates_excuses_its_node() -> None:
    going = pod("n2", metadata={"deletionTimestamp": objects.NOW})
    assert _assess([going], [node(), node("n2")]).excused == {"n2": "the pod is terminating"}


# --- platforms -------------------------------------------------------------------------------------------------------


def test_an_image_that_lacks_a_platform_for_some_nodes_does_not_apply_there() -> None:
    pods = [
        pod(statuses=[running("java11"), running("theia")]),
        pod("arm", statuses=[waiting("java11", "ErrImagePull", NO_PLATFORM), running("theia")]),
    ]
    report = _assess(pods, [node(), node("arm")])
    assert [(row.node, row.state) for row in report.rows if row.name == "java11"] == [
        ("arm", "not_applicable"),
        ("node-1", "cached"),
    ]
    assert report.verdict == "Healthy"


def test_an_image_that_lacks_a_platform_for_every_node_that_counts_has_failed() -> None:
    statuses = [waiting("java11", "ErrImagePull", NO_PLATFORM), running("theia")]
    report = _assess([pod(statuses=statuses)], [node(), node("down", ready=False)])
    assert report.verdict == "Degraded"
    assert [row.state for row in report.counted if row.name == "java11"] == ["failed"]


# --- the verdict -----------------------------------------------------------------------------------------------------

GOOD = [running("java11"), running("theia")]


@pytest.mark.parametrize(
    ("arguments", "verdict", "reasons"),
    [
        ({"daemonset": None}, "Absent", ["the DaemonSet does not exist"]),
        ({"pods": [pod(statuses=GOOD)]}, "Healthy", []),
        (
            {"pods": [pod(statuses=GOOD[:1])]},
            "Progressing",
            ["1 image is still to come on 1 node (node-1: nobody has told yet: the kubelet does once it has tried "
             "all, and theia is the next in its order)"],
        ),
        (
            {"pods": [], "nodes": [node(), node("n2")]},
            "Progressing",
            ["2 images are still to come on 2 nodes"],
        ),
        (
            {"pods": [pod(statuses=GOOD)], "daemonset": _daemonset(deletionTimestamp=objects.NOW)},
            "Progressing",
            ["the DaemonSet is being deleted"],
        ),
        (
            {"pods": [pod(statuses=GOOD)], "daemonset": _daemonset(generation=2)},
            "Progressing",
            ["the DaemonSet controller has not seen the last change yet"],
        ),
        ({"nodes": []}, "NoMatchingNodes", ["no node matches the node selector, affinity and tolerations"]),
        (
            {"nodes": [node(taints=[{"key": "gpu", "effect": "NoSchedule"}])]},
            "NoMatchingNodes",
            [
                "no node matches the node selector, affinity and tolerations",
                "node node-1 is skipped: taint; needed toleration: "
                '[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]',
            ],
        ),
        (
            {"nodes": [node(ready=False), node("n2", ready=False)]},
            "Progressing",
            ["none of the nodes that match counts now (2 nodes: the node is not ready)"],
        ),
        (
            {"events": [event("exceeded quota: pods", uid="ds", reason="FailedCreate")]},
            "Degraded",
            ["pods can't be created: exceeded quota: pods"],
        ),
        (
            {"pods": [pod(statuses=GOOD)], "events": [event("exceeded quota", uid="ds", reason="FailedCreate")]},
            "Healthy",
            [],
        ),
        # nodes that may not be read are inferred
        (
            {"nodes": None, "daemonset": _daemonset(observed=0)},
            "Progressing",
            ["the DaemonSet controller has not seen the DaemonSet yet"],
        ),
        ({"nodes": None, "daemonset": _daemonset(desired=0)}, "NoMatchingNodes",
         ["no node matches the node selector, affinity and tolerations"]),
        ({"nodes": None, "pods": [pod(statuses=GOOD)]}, "Healthy", []),
        (
            {"nodes": None, "pods": [pod(statuses=GOOD)], "daemonset": _daemonset(desired=3)},
            "Progressing",
            ["2 nodes without a pod yet"],
        ),
        (
            {"nodes": None, "daemonset": _daemonset(desired=3),
             "events": [event("exceeded quota", uid="ds", reason="FailedCreate")]},
            "Degraded",
            ["pods can't be created: exceeded quota"],
        ),
    ],
)  # fmt: skip
def test_the_verdict_and_its_reasons(arguments: dict[str, Any], verdict: str, reasons: list[str]) -> None:
    report = _assess(**arguments)
    assert (report.verdict, list(report.reasons)) == (verdict, reasons)
    assert report.inferred is ("nodes" in arguments and arguments["nodes"] is None)


def test_a_failure_is_told_with_image_nodes_the_kubelets_words_and_the_remedy() -> None:
    bad = [waiting("java11", "ErrImagePull", f"{NOT_FOUND}.\n"), waiting("theia", "ContainerCreating")]
    names = [f"n{number}" for number in range(5)]
    report = _assess([pod(name, statuses=bad) for name in names], [node(name) for name in names])
    assert report.verdict == "Degraded"
    assert report.reasons == (
        "java11 (registry.example.com/team/java11:2.1) failed on 5 nodes (n0, n1, n2 and 2 more): not_found. "
        f"The kubelet says: {NOT_FOUND}. "
        "Remedy: correct the tag or the repository, or push the image.",
    )


def test_the_sentences_do_not_grow_with_the_number_of_nodes() -> None:
    rows = [Row(f"n{number:05}", "a", "r.io/a:1", "failed", "network", reason="ErrImagePull") for number in range(3000)]
    (sentence,) = failure_sentences(rows)
    assert sentence == (
        "a (r.io/a:1) failed on 3000 nodes (n00000, n00001, n00002 and 2997 more): network. "
        "The kubelet says: ErrImagePull. Remedy: check that the nodes reach the registry."
    )


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_one_shape_and_its_counts_agree() -> None:
    pods = [pod(statuses=[running("java11"), waiting("theia", "ErrImagePull", UNKNOWN_HOST)])]
    nodes = [node(), node("down", ready=False), node("gpu-1", taints=[GPU])]
    told = _assess(pods, nodes).as_dict()
    json.dumps(told)
    assert told["summary"] == {
        "images": 2,
        "nodes": 1,
        "excused_nodes": 1,
        **dict.fromkeys(STATES, 0),
        "cached": 1,
        "failed": 1,
        "held": 1,
    }
    assert [(image["name"], image["nodes"], image["class"], image["reason"]) for image in told["images"]] == [
        ("java11", 1, None, None),
        ("theia", 1, "unknown_host", "ErrImagePull"),
    ]
    assert [(one["name"], one["excused"], bool(one["skipped"])) for one in told["nodes"]] == [
        ("down", "the node is not ready", False),
        ("node-1", None, False),
        ("gpu-1", None, True),
    ]
    keys = {"node", "name", "image", "state", "class", "held", "reason", "message", "digest", "since"}
    assert all(set(row) == keys | {"pull_seconds", "size", "tries"} for row in told["rows"])
    absent = assess(IMAGES, None, [], [], now=NOW).as_dict()
    assert set(absent) == set(told)
    assert set(absent["summary"]) == set(told["summary"])


def test_an_image_tells_its_worst_row() -> None:
    pods = [
        pod("n1", statuses=[waiting("java11", "CrashLoopBackOff", "x", image_id="a@sha256:" + "b" * 64)]),
        pod("n2", statuses=[waiting("java11", "ErrImagePull", NOT_FOUND)]),
    ]
    told = _assess(pods, [node("n1"), node("n2")]).as_dict()
    assert (told["images"][0]["class"], told["images"][0]["message"]) == ("not_found", NOT_FOUND)


# --- whatever the API says -------------------------------------------------------------------------------------------

_texts = st.sampled_from(
    ["", "x", "ErrImagePull", "CrashLoopBackOff", "Evicted", "Failed", PULLED, NOT_FOUND, objects.NOW]
)


@st.composite
def _mutilated(draw: st.DrawFn, whole: Any) -> Any:
    """The structure with some of its fields gone, null, empty, or saying something else."""
    if isinstance(whole, dict):
        kept = {key: draw(_mutilated(value)) for key, value in whole.items() if draw(st.integers(0, 9))}
        return kept if draw(st.integers(0, 19)) else {}
    if isinstance(whole, list):
        return [draw(_mutilated(item)) for item in whole] if draw(st.integers(0, 19)) else []
    if isinstance(whole, str):
        return whole if draw(st.integers(0, 4)) else draw(_texts)
    return whole


STATUS = {
    "phase": "Pending",
    "reason": "Evicted",
    "message": "x",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "x"}],
    "initContainerStatuses": [waiting("copy-sleep", "ErrImagePull", NOT_FOUND)],
    "containerStatuses": [
        {**running("java11"), "lastState": {"terminated": {"reason": "Error", "message": "x"}}},
        waiting("theia", "ImagePullBackOff", UNKNOWN_HOST, image_id="r.io/a@sha256:" + "b" * 64),
        {"name": "theia", "state": {"terminated": {"reason": "Completed"}}},
    ],
}
EVENT = {**event(PULLED), "series": {"lastObservedTime": objects.NOW}, "eventTime": objects.NOW}
NODE = node(images=[JAVA.image], taints=[GPU, NOT_READY])


@given(_mutilated(STATUS), st.lists(_mutilated(EVENT), max_size=3), _mutilated(NODE["status"]))
@settings(max_examples=200)
def test_whatever_is_missing_or_new_in_a_status_there_is_a_report(
    status: Any, events: list[Any], node_status: Any
) -> None:
    it = copy.deepcopy(pod())
    it["status"] = status
    some = [{**one, "metadata": one.get("metadata") or {}} for one in events]
    for nodes in ([{**NODE, "status": node_status}, {**node(), "status": node_status}], [node()], None):
        report = assess(IMAGES, _daemonset(), [it], nodes, some, now=datetime(2026, 11, 20, tzinfo=timezone.utc))
        assert {row.state for row in report.rows} <= set(STATES)
        assert all((row.class_ in REMEDIES) is (row.state in ("failed", "not_applicable")) for row in report.rows)
        json.dumps(report.as_dict())


# --- how much is told ------------------------------------------------------------------------------------------------


def _fleet(nodes: int, images: int, **more: Any) -> Report:
    """A report in which each image fails on each node, but the first, which is cached everywhere."""
    wanted = tuple(CachedImage(f"image-{n:02}", f"r.io/team/image-{n:02}:1") for n in range(images))
    names = tuple(f"ip-10-0-{n // 250}-{n % 250}.eu-west-1.compute.internal" for n in range(nodes))
    bad: dict[str, Any] = {"class_": "not_found", "reason": "ErrImagePull", "message": f"{NOT_FOUND} {'x' * 200}"}
    rows = tuple(
        Row(node, image.name, image.image, "cached", held=True)
        if image is wanted[0]
        else Row(node, image.name, image.image, "failed", **bad)
        for node in names
        for image in wanted
    )
    return Report("Degraded", (), rows, wanted, names, expected=nodes, **more)


def test_whether_pods_have_resources_as_a_whole_is_told_as_the_server_has_it() -> None:
    whole = objects.served(objects.desired(strategy="image_volume"))
    each = copy.deepcopy(whole)
    del each["spec"]["template"]["spec"]["resources"]
    for live, told in ((whole, True), (each, False), (_daemonset(), False)):
        daemonset = assess(IMAGES, live, [], [node()], now=NOW).as_dict()["daemonset"]
        assert daemonset["pod_resources"] is told


def test_up_to_a_hundred_nodes_everything_is_told() -> None:
    told = _fleet(100, 2).as_dict()
    assert (told["details"], len(told["rows"]), len(told["nodes"])) == ("all", 200, 100)
    assert told["left_out"] == {"nodes": 0, "rows": 0}


@pytest.mark.parametrize(("nodes", "images", "share"), [(100, 60, 1), (100, 20, 4), (40, 20, 4)])
def test_what_is_told_of_up_to_a_hundred_nodes_has_room_in_a_result(nodes: int, images: int, share: int) -> None:
    report = _fleet(nodes, images)
    assert len(json.dumps(report.as_dict("all"))) * share > 1 << 20
    told = report.as_dict(share=share)
    assert len(json.dumps(told)) * share < 1 << 20
    assert (told["details"], told["summary"]["failed"]) == ("problems", nodes * (images - 1))
    assert len(told["rows"]) + told["left_out"]["rows"] == nodes * (images - 1)
    assert {row["name"] for row in told["rows"]} == {image.name for image in report.images[1:]}


def test_a_long_message_takes_no_room_from_the_others() -> None:
    images = tuple(CachedImage(f"image-{n}", f"r.io/image-{n}:1") for n in range(4))
    rows = tuple(
        Row("n1", i.name, i.image, "failed", class_="other", reason="ErrImagePull", message=f"{i.name} {'x' * 10**6}")
        for i in images
    )
    report = Report("Degraded", (), rows, images, ("n1",), expected=1)
    told = report.as_dict()
    assert (told["details"], len(told["rows"]), told["left_out"]["rows"]) == ("problems", 4, 0)
    assert {len(each["message"]) for each in (*told["rows"], *told["images"])} == {600}
    assert report.as_dict("all")["rows"][0]["message"] == rows[0].message


def test_reasons_for_which_nodes_do_not_count_are_bounded_and_those_of_most_come_first() -> None:
    skipped = {f"n{n:02}": f"taint; needed toleration: team-{n // 2 if n > 1 else 99}" for n in range(40)}
    skipped |= {f"gpu-{n}": "taint; needed toleration: gpu" for n in range(6)}
    told = Report("Healthy", (), (), (), (), {}, skipped).as_dict("summary")["skipped"]
    assert told[0] == {"why": "taint; needed toleration: gpu", "nodes": 6, "names": [f"gpu-{n}" for n in range(5)]}
    assert (len(told), sum(each["nodes"] for each in told)) == (6, len(skipped))
    assert told[5] == {"why": "16 other reasons", "nodes": 32, "names": [f"n{n:02}" for n in range(8, 13)]}


def test_of_more_nodes_the_problems_are_told_as_far_as_a_result_has_room() -> None:
    report = _fleet(1500, 20, skipped={f"gpu-{n}": "taint" for n in range(700)})
    told = report.as_dict()
    assert len(json.dumps(told)) < 1 << 20
    assert told["details"] == "problems"
    assert {row["state"] for row in told["rows"]} == {"failed"}
    assert {row["name"] for row in told["rows"]} == {image.name for image in report.images[1:]}
    assert len(told["rows"]) + told["left_out"]["rows"] == 1500 * 19
    assert len(told["nodes"]) + told["left_out"]["nodes"] == 1500 + 700
    assert told["skipped"] == [{"why": "taint", "nodes": 700, "names": [f"gpu-{n}" for n in range(5)]}]
    assert told["summary"]["failed"] == 1500 * 19
    assert len(json.dumps([report.as_dict(share=10) for _ in range(10)])) < 1 << 20


def test_whoever_asks_is_told_everything_or_nothing_of_the_parts() -> None:
    report = _fleet(101, 2)
    assert len(report.as_dict("all")["rows"]) == 202
    told = report.as_dict("summary")
    assert (told["rows"], told["nodes"], told["left_out"]) == ([], [], {"nodes": 0, "rows": 0})
    assert set(told) == set(report.as_dict("all")) == set(report.as_dict())


def test_nodes_without_a_problem_are_left_out_of_the_problems_and_excused_ones_are_not() -> None:
    rows = tuple(Row(f"n{n}", "a", "r.io/a:1", "cached", held=True) for n in range(102))
    report = Report(
        "Healthy", (), rows, (CachedImage("a", "r.io/a:1"),), tuple(f"n{n}" for n in range(102)), {"n7": "cordoned"}
    )
    told = report.as_dict()
    assert [node["name"] for node in told["nodes"]] == ["n7"]
    assert told["excused"] == [{"why": "cordoned", "nodes": 1, "names": ["n7"]}]
    assert told["rows"] == []


# --- what is published -----------------------------------------------------------------------------------------------

PUBLISHED = "kubecache.io/status"


def _published(text: str | None) -> tuple[dict[str, Any] | None, str]:
    annotations = {} if text is None else {PUBLISHED: text}
    return read_published({"metadata": {"namespace": "a", "name": "b", "annotations": annotations}})


def test_what_was_published_is_read() -> None:
    pods = [pod("node-1", [running("java11"), waiting("theia", "ErrImagePull", "theia:2.1: not found")])]
    report = assess((JAVA, THEIA), objects.served(objects.desired()), pods, [node()], now=NOW)
    told, warning = _published(publish(report, "0123"))
    assert told is not None
    assert (told["verdict"], told["settings"], warning) == (report.verdict, "0123", "")
    assert told["summary"] == report.summary
    assert [failure["name"] for failure in told["failures"]] == ["theia"]
    assert _published(publish(Report("Absent", ())))[0]
    assert _published(None) == (None, "")


def test_why_settings_are_not_followed_is_told_of_these_settings_and_this_very_daemonset() -> None:
    why = ("strategy image_volume can't be: " + "node-1 " * 40, *("x" * 2000,) * 3)
    report = Report("Degraded", why, daemonset={"generation": 3})
    text = publish(report, "", {"0123": why})
    live = {"metadata": {"namespace": "a", "name": "b", "generation": 3, "annotations": {PUBLISHED: text}}}
    told = not_followed(live, "0123")
    assert (told[0], len(told), len(told[1])) == (why[0], 3, 1000)
    assert not_followed(live, "4567") == not_followed({"metadata": {**live["metadata"], "generation": 4}}, "0123") == ()
    assert not_followed({"metadata": {}}, "0123") == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("verdict", "Splendid"),
        ("verdict", ["Healthy"]),
        ("reasons", "why"),
        ("reasons", [1]),
        ("summary", None),
        ("summary", {"cached": "6"}),
        ("summary", {"cached": -1}),
        ("summary", {"cached": True}),
        ("summary", {"cached": 10**30}),
        ("failures", {}),
        ("failures", ["a"]),
        ("failures", [{"name": "a", "image": "b", "class": "other", "message": None, "nodes": 1}]),
        ("settings", 7),
        ("not_followed", ["a"]),
        ("not_followed", {"0123": "a"}),
        ("not_followed", {"0123": [7]}),
    ],
)
def test_what_can_not_have_been_published_is_absent_and_warned_of(key: str, value: Any) -> None:
    text = json.dumps(json.loads(publish(Report("Healthy", ()))) | {key: value})
    told, warning = _published(text)
    assert told is None
    assert warning.startswith(f"the annotation {PUBLISHED} of DaemonSet a/b can't be read and is ignored: {text[:200]}")


@pytest.mark.parametrize("text", ["", "no JSON", "7", "[]", "{}", "null", "[" * 100_000, '{"summary": ' * 50_000])
def test_no_published_text_is_a_crash(text: str) -> None:
    told, warning = _published(text)
    assert told is None
    assert warning.startswith(f"the annotation {PUBLISHED} of DaemonSet a/b can't be read and is ignored: {text[:50]}")
    assert len(warning) < 400
