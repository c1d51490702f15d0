# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a set while it arrives: what is there, what is pulled, what waits, and of what nobody has told."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.events import BURST, read_events
from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import pull_failure
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Row, assess, publish
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CachedImage
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Shared, pod_slimmer
from controller.slim import ToldEvents
from tests.unit import objects
from tests.unit.objects import event, node, pod, running, waiting

IMAGES = tuple(CachedImage(f"image-{n:02}", f"r.io/team/image-{n:02}:1") for n in range(1, 21))
DAEMONSET = objects.served(objects.desired(images={image.name: image.image for image in IMAGES}))
DAEMONSET["status"] = {"observedGeneration": 1, "desiredNumberScheduled": 1}
NOT_FOUND = "rpc error: code = NotFound desc = not found"


def _told(message: str, reason: str, image: CachedImage, second: int) -> dict[str, Any]:
    """An event of the kubelet about one container."""
    made = event(message, at=f"2026-11-20T12:{second // 60:02}:{second % 60:02}Z", reason=reason)
    made["involvedObject"]["fieldPath"] = f"spec.containers{{{image.name}}}"
    return made | {"source": {"component": "kubelet", "host": "node-1"}}


def _arrival(image: CachedImage, second: int) -> list[dict[str, Any]]:
    """What a kubelet tells of an image that arrives and is held."""
    pulled = f'Successfully pulled image "{image.image}" in 33ms (61ms including waiting). Image size: 1185181 bytes.'
    return [
        _told(f'Pulling image "{image.image}"', "Pulling", image, second),
        _told(pulled, "Pulled", image, second),
        _told("Container created", "Created", image, second),
        _told("Container started", "Started", image, second),
    ]


def _failure(image: CachedImage, second: int) -> list[dict[str, Any]]:
    return [
        _told(f'Pulling image "{image.image}"', "Pulling", image, second),
        _told(f'Failed to pull image "{image.image}": {NOT_FOUND}', "Failed", image, second),
        _told("Error: ErrImagePull", "Failed", image, second),
    ]


def _rows(events: Sequence[dict[str, Any]], listed: Sequence[str] = (), **more: Any) -> dict[str, Row]:
    """By name, while no container status has moved."""
    still = [waiting(image.name, "PodInitializing") for image in IMAGES]
    it = pod(daemonset=DAEMONSET, statuses=more.pop("statuses", still), **more)
    return {row.name: row for row in assess(IMAGES, DAEMONSET, [it], [node(images=listed)], events).rows}


def test_before_anything_is_told_nothing_is_said_to_be_pulled() -> None:
    rows = _rows([]).values()
    assert {(row.state, row.reason, row.message) for row in rows} == {("waiting", "Untold", None)}


def test_one_image_is_pulled_and_the_others_wait_for_it() -> None:
    events = [*_arrival(IMAGES[0], 1), *_arrival(IMAGES[1], 2)[:1]]
    rows = list(_rows(events).values())
    assert (rows[0].state, rows[0].held, rows[0].size) == ("cached", True, 1185181)
    assert (rows[1].state, rows[1].since) == ("pulling", "2026-11-20T12:00:02Z")
    assert {(row.state, row.reason, row.message) for row in rows[2:]} == {
        ("waiting", "NotItsTurn", "image-02 is being pulled first")
    }


def test_the_helper_comes_before_all_images() -> None:
    helper = DAEMONSET["spec"]["template"]["spec"]["initContainers"][0]["image"]
    rows = _rows([event(f'Pulling image "{helper}"')])
    assert {row.message for row in rows.values()} == {f"the helper image {helper} is being pulled first"}


def test_twenty_images_whose_eleventh_hangs_are_told_as_far_as_the_kubelet_tells() -> None:
    events = [told for second, image in enumerate(IMAGES[:10]) for told in _arrival(image, second)][:BURST]
    rows = list(_rows(events).values())
    assert [row.state for row in rows] == ["cached"] * 6 + ["waiting"] * 14
    silent = "nobody has told yet: the kubelet does once it has tried all, and image-07 is the next in its order"
    assert {(row.reason, row.message) for row in rows[6:]} == {("Untold", silent)}
    listed = list(_rows(events, [image.image for image in IMAGES[:10]]).values())
    assert [row.state for row in listed] == ["cached"] * 10 + ["waiting"] * 10
    assert {row.message for row in listed[10:]} == {silent.replace("image-07", "image-11")}


def test_a_pull_whose_end_a_silent_kubelet_can_not_tell_is_not_called_pulling() -> None:
    told = [told for second, image in enumerate(IMAGES) for told in _arrival(image, second)]
    assert [row.state for row in _rows(told[:21]).values()][5:7] == ["pulling", "waiting"]
    again = [*told[:20], *(told[0] | {"count": 4},), told[20]]
    assert [row.state for row in _rows(again).values()][5:7] == ["waiting", "waiting"]


def test_a_pod_without_a_sandbox_says_why() -> None:
    said = "Failed to create pod sandbox: plugin type calico failed"
    trouble = event(said, reason="FailedCreatePodSandBox")
    assert {(row.state, row.reason, row.message) for row in _rows([trouble]).values()} == {
        ("waiting", "FailedCreatePodSandBox", said)
    }


def test_an_invalid_name_fails_before_the_pass_has_ended() -> None:
    bad = IMAGES[0]
    message = f'Failed to apply default image tag "{bad.image}": couldn\'t parse image name: invalid reference format'
    row = _rows([_told(message, "InspectFailed", bad, 1)])[bad.name]
    assert (row.state, row.class_) == ("failed", "invalid_name")


def test_a_failure_is_told_since_its_first_try_and_with_the_number_of_tries() -> None:
    bad = IMAGES[0]
    failed = _told(f'Failed to pull image "{bad.image}": {NOT_FOUND}', "Failed", bad, 50)
    failed |= {"firstTimestamp": "2026-11-20T11:58:00Z", "count": 3}
    for status in ("ErrImagePull", "PodInitializing"):
        row = _rows([failed], statuses=[waiting(bad.name, status, NOT_FOUND if "Err" in status else "")])[bad.name]
        assert (row.state, row.class_, row.since, row.tries) == ("failed", "not_found", "2026-11-20T11:58:00Z", 3)


def test_the_nodes_list_adds_size_and_digest_where_events_are_forgotten() -> None:
    image, digest = IMAGES[0], "sha256:" + "c" * 64
    document = node()
    document["status"]["images"] = [{"names": [f"r.io/team/image-01@{digest}", image.image], "sizeBytes": 77}]
    it = pod(daemonset=DAEMONSET, statuses=[{"name": image.name, "state": {"running": {}}}])
    row = assess([image], DAEMONSET, [it], [document]).rows[0]
    assert (row.state, row.held, row.size, row.digest) == ("cached", True, 77, digest)
    told = assess([image], DAEMONSET, [it], [document], _arrival(image, 1)).rows[0]
    assert (told.size, told.pull_seconds, told.since) == (1185181, 0.033, "2026-11-20T12:00:01Z")


# --- whatever happens, in whatever order it is heard -----------------------------------------------------------------

_fates = st.lists(st.sampled_from(["arrives", "fails"]), min_size=20, max_size=20)


@given(_fates, st.integers(0, 80), st.randoms(use_true_random=False), st.sets(st.integers(0, 19)))
def test_nothing_is_told_that_is_not_so(fates: list[str], happened: int, order: Any, listed: set[int]) -> None:
    """A kubelet that has come so far in its first pass has told the first events of it, and lists a part of its images.

    What is called cached is there, what is called failed has failed, what is called pulling is being pulled.
    """
    steps = []
    for second, (image, fate) in enumerate(zip(IMAGES, fates, strict=True)):
        steps += [(image.name, told) for told in (_arrival if fate == "arrives" else _failure)(image, second)]
    steps = steps[:happened]
    there = {name for name, told in steps if told["reason"] == "Pulled"}
    failed = {name for name, told in steps if told["message"].startswith("Failed to pull")}
    begun = {name for name, told in steps if told["reason"] == "Pulling"}
    heard = [told for _name, told in steps[:BURST]]
    order.shuffle(heard)
    rows = _rows(heard, [IMAGES[n].image for n in listed if IMAGES[n].name in there])
    for row in rows.values():
        assert row.state != "cached" or row.name in there
        assert row.state != "failed" or row.name in failed
        assert row.state != "pulling" or row.name in begun - there - failed
        assert row.state != "waiting" or row.reason in ("Untold", "NotItsTurn")
    assert all(rows[name].state == "cached" for name in there if any(f"{name}:1" in e["message"] and
               e["reason"] == "Pulled" for e in heard))  # fmt: skip


@given(st.permutations([told for image in IMAGES[:2] for told in [*_failure(image, 3), *_arrival(image, 14)]]))
def test_events_tell_the_same_in_any_order(events: list[Any]) -> None:
    told = read_events(copy.deepcopy(events))
    assert {pull.state for pull in told.pulls.values()} == {"cached"}
    assert {pull.size for pull in told.pulls.values()} == {1185181}
    assert told.arrived == "2026-11-20T12:00:14Z"
    assert {name for _uid, name in told.started} == {"image-01", "image-02"}


def test_a_running_container_needs_no_event() -> None:
    rows = _rows([], statuses=[running(image.name) for image in IMAGES])
    assert {(row.state, row.held) for row in rows.values()} == {("cached", True)}


# --- image volumes ---------------------------------------------------------------------------------------------------

HELPER = "r.io/team/helper:1"
VOLUMES = objects.served(
    objects.desired(images={i.name: i.image for i in IMAGES}, strategy="image_volume", helper_image=HELPER)
)
VOLUMES["status"] = DAEMONSET["status"]


def _mounted(events: Sequence[dict[str, Any]] = (), *statuses: dict[str, Any], kept: bool = False) -> dict[str, Row]:
    it: dict[str, Any] = pod(daemonset=VOLUMES, statuses=statuses)
    if kept:
        it["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "cache", "uid": "1"}]
        it["metadata"]["namespace"] = "cache"
        it = pod_slimmer(Shared())(it) or {}
    return {row.name: row for row in assess(IMAGES, VOLUMES, [it], [node()], events).rows}


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_container_mounts_is_held_and_its_digest_is_not_that_of_the_helper(kept: bool) -> None:
    one, other = running(IMAGES[0].name), running(IMAGES[1].name)
    told = {"image": {"imageRef": "r.io/team/image-02@sha256:" + "d" * 64}}
    other["volumeMounts"] = [{"name": IMAGES[1].name, "mountPath": "/image", "volumeStatus": told}]
    rows = list(_mounted([], one, other, kept=kept).values())
    assert [(row.state, row.held, row.image) for row in rows[:2]] == [("cached", True, i.image) for i in IMAGES[:2]]
    assert [row.digest for row in rows[:2]] == [None, "sha256:" + "d" * 64]


def test_a_volume_that_can_not_be_pulled_says_so_and_the_others_are_held() -> None:
    bad, good = IMAGES[0], IMAGES[1]
    said = f'failed to pull and unpack image "{bad.image}": failed to resolve image: {bad.image}: not found'
    for reason, message in (
        ("ErrImagePull", said),
        ("ImagePullBackOff", f'Back-off pulling image "{bad.image}": {said}'),
    ):
        rows = _mounted([], waiting(bad.name, reason, message), running(good.name))
        assert (rows[bad.name].state, rows[bad.name].class_) == ("failed", "not_found")
        assert rows[good.name].held


def test_a_helper_that_can_not_be_pulled_fails_all_that_nothing_holds_and_is_named() -> None:
    said = f'Back-off pulling image "{HELPER}": failed to pull and unpack image "{HELPER}": {HELPER}: not found'
    statuses = [waiting(image.name, "ImagePullBackOff", said) for image in IMAGES[1:]]
    rows = _mounted(_arrival(IMAGES[1], 1), running(IMAGES[0].name), *statuses)
    assert rows[IMAGES[0].name].held
    for image in IMAGES[1:]:
        row = rows[image.name]
        assert (row.state, row.class_, row.held) == ("failed", "not_found", False)
        assert (row.message or "").startswith(f"helper image {HELPER}: ")


def test_an_image_whose_name_begins_like_the_helpers_fails_for_itself() -> None:
    image = CachedImage("longer", f"{HELPER}.2")
    live = objects.served(objects.desired(images={"longer": image.image}, strategy="image_volume", helper_image=HELPER))
    said = f'failed to pull and unpack image "{image.image}": failed to resolve image: {image.image}: not found'
    it = pod(daemonset=live, statuses=[waiting("longer", "ErrImagePull", said)])
    (row,) = assess([image], live, [it], [node()]).rows
    assert (row.state, row.message) == ("failed", said)


def test_of_events_that_were_combined_the_last_is_told() -> None:
    """As a kubelet tells of the eleventh image volume of a pod."""
    combined = "(combined from similar events): "
    missing = event(f'{combined}Failed to pull image "{IMAGES[0].image}": {NOT_FOUND}', at="2026-11-20T12:00:05Z")
    missing |= {"firstTimestamp": "2026-11-20T11:58:00Z", "count": 12}
    pulling = event(f'{combined}Pulling image "{IMAGES[1].image}"', at="2026-11-20T12:00:06Z")
    told = ToldEvents()
    for each in (missing, pulling):
        assert told.take({**each, "involvedObject": {"kind": "Pod", "uid": "uid-node-1"}})
    for events in ([missing, pulling], told.of("", ["uid-node-1"])):
        rows = _mounted(events)
        failed, next_one = rows[IMAGES[0].name], rows[IMAGES[1].name]
        assert (failed.state, failed.class_, failed.since, failed.tries) == (
            "failed",
            "not_found",
            missing["lastTimestamp"],
            1,
        )
        assert next_one.state == "pulling"


SIGNED = (
    f'failed to pull and unpack image "{IMAGES[0].image}": failed to copy: httpReadSeeker: failed open: failed to do '
    'request: Get "https://user:secret@blobs.example.com/a/401?X-Amz-Credential=secret&X-Amz-Signature=secret": EOF'
)


@pytest.mark.parametrize(
    ("class_", "message"),
    [
        ("network", SIGNED),
        ("network", SIGNED + " Authorization: Bearer secret-secret-secret"),
        ("not_found", SIGNED.replace("EOF", "not found")),
    ],
)
@pytest.mark.parametrize("witness", ["status", "event", "helper", "pod", "refusal"])
def test_what_signs_an_address_is_told_nowhere(witness: str, class_: str, message: str) -> None:
    """By no witness, and it changes no class. What is published goes into annotation, status, Events and logs."""
    statuses = [waiting(image.name, "PodInitializing") for image in IMAGES]
    init = {"initContainerStatuses": [waiting("sleep", "ErrImagePull", message)]} if witness == "helper" else {}
    events = []
    if witness == "status":
        statuses[0] = waiting(IMAGES[0].name, "ErrImagePull", message)
    elif witness == "event":
        events = [_told(f'Failed to pull image "{IMAGES[0].image}": {message}', "Failed", IMAGES[0], 1)]
    elif witness == "pod":
        events = [_told(message, "FailedCreatePodSandBox", IMAGES[0], 1)]
    elif witness == "refusal":
        events = [event(message, "daemonset", reason="FailedCreate")]
    pods = [pod(daemonset=DAEMONSET, statuses=statuses, status=init)] if witness != "refusal" else []
    report = assess(IMAGES, DAEMONSET, pods, [node()], events)
    if witness not in ("pod", "refusal"):
        assert (report.rows[0].state, report.rows[0].class_) == ("failed", class_)
    told = f"{publish(report)} {report.rows} {report.reasons} {report.as_dict()}"
    told += str(pull_failure(waiting("image-puller", "ErrImagePull", message)))
    assert "blobs.example.com" in told
    assert "secret" not in told
