# SPDX-License-Identifier: GPL-3.0-or-later
"""The truth on real nodes: what is there, what is not and why, and a wait that says how far it is."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import report
from ansible_collections.kubecache.image_puller.plugins.module_utils.events import BURST
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import Matrix
from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.table import table
from tests.cluster import Cluster

from .conftest import DAEMONSET, Kubectl, Module, Playbook, eventually

HOST = "registry.example.com"
GOOD = {"good": f"{HOST}/truth/good:1"}
ABSENT = {"absent": f"{HOST}/truth/no-such-image:1"}
TWENTY = {f"image-{n:02}": f"{HOST}/twenty/image-{n:02}:1" for n in range(1, 21)}
HANGING = "image-11"


@pytest.fixture
def faults(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whose registry behaves again afterwards."""
    yield cluster
    cluster.registry_clear()


def told(info: dict[str, Any], key: str = "state") -> dict[tuple[str, str], Any]:
    """(node, image) -> what is said of it."""
    return {(row["node"], row["name"]): row[key] for row in info["rows"]}


def text_of(info: dict[str, Any]) -> str:
    """The table as a person reads it, without its line breaks."""
    return " ".join(" ".join(table(info, 80)).split())


# --- twenty images whose eleventh hangs ------------------------------------------------------------------------------


@pytest.fixture
def patient_node(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A node, which pulls again for others once the test is over: its kubelet pulls one image after another."""
    node = cluster.nodes[0]
    yield node
    cluster.kubectl("delete", "daemonset", "--all", "-n", namespace, check=False)
    container = {"name": "main", "image": f"{cluster.registry}/test/busybox:1", "imagePullPolicy": "Always"}
    spec = {"nodeName": node, "containers": [container | {"command": ["sleep", "infinity"]}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "next", "namespace": namespace}, "spec": spec}
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod))
    cluster.kubectl("wait", "pod/next", "--for=condition=Ready", "--timeout=110s", "-n", namespace)


@pytest.mark.thorough
def test_twenty_images_whose_eleventh_hangs(
    cluster: Cluster, module: Module, kubectl: Kubectl, patient_node: str
) -> None:
    """Its registry's name server never answers, which costs the kubelet the better part of a minute."""
    for image in TWENTY.values():
        cluster.push(image)
    images = TWENTY | {HANGING: f"registry.hang.test/twenty/{HANGING}:1"}
    node = patient_node
    selector = {"kubernetes.io/hostname": node}
    module("install", images=images, node_selector=selector, controller=False, daemonset=True)
    arrived = list(images)[: list(images).index(HANGING)]
    runtime = cluster.node(node)
    eventually(lambda: all(runtime.has_image(images[name]) for name in arrived))

    def first_minutes() -> dict[str, Any]:
        """What is said as soon as the kubelet has told all that it tells of one pod."""
        info = module("info")
        return info if info["summary"]["cached"] >= BURST // 4 - 1 else {}

    info = eventually(first_minutes, seconds=5)
    states = [row["state"] for row in info["rows"]]
    there = states.index("waiting") if "waiting" in states else len(states)
    assert states == ["cached"] * there + ["waiting"] * (len(states) - there), states
    assert there <= len(arrived)
    # The node's own list may be there already: it tells of more images than the kubelet's first events.
    assert all(row["held"] for row in info["rows"][: min(there, BURST // 4) - 1]), info["rows"]
    next_one = list(images)[there]
    assert {row["reason"] for row in info["rows"][there:]} == {"Untold"}
    assert all(f"{next_one} is the next in its order" in row["message"] for row in info["rows"][there:])
    assert f"{next_one} is the next in its order" in text_of(info)

    def listed() -> dict[str, Any]:
        """The node's own list has come: now it is certain which image is next."""
        info = module("info")
        done = [row["name"] for row in info["rows"] if row["state"] == "cached"]
        return info if done == arrived else {}

    info = eventually(listed, seconds=45)
    assert f"{HANGING} is the next in its order" in text_of(info)

    def exact() -> dict[str, Any]:
        info = module("info")
        return info if info["summary"]["held"] == len(images) - 1 else {}

    def sized() -> bool:
        """The sizes of which the kubelet did not tell are known once the node lists the images."""
        return all(row["size"] for row in module("info")["rows"] if row["name"] != HANGING)

    info = eventually(exact, seconds=120)
    (failed,) = [row for row in info["rows"] if row["state"] != "cached"]
    assert (failed["name"], failed["state"], failed["class"]) == (HANGING, "failed", "unknown_host")
    assert all(row["digest"] and row["since"] for row in info["rows"] if row["name"] != HANGING)
    assert info["verdict"] == "Degraded"
    eventually(sized, seconds=60)


# --- six fates -------------------------------------------------------------------------------------------------------

FATES = {
    "fine": f"{HOST}/fates/fine:1",
    "absent": f"{HOST}/fates/absent:1",
    "private": f"{HOST}/private/image:1",
    "upper": f"{HOST}/fates/Upper:1",
    "foreign": f"{HOST}/fates/foreign:1",
    "slow": f"{HOST}/fates-slow/image:1",
}
CLASSES = {"absent": "not_found", "private": "unauthorized", "upper": "invalid_name", "foreign": "no_platform"}


def known_daemonset(namespace: str, name: str, images: dict[str, str]) -> dict[str, Any]:
    """A DaemonSet as the known implementation makes it, of containers that sleep by themselves."""
    labels = {"test": "daemonset-test"}
    containers = [{"name": container, "image": image} for container, image in images.items()]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def test_six_images_of_different_fates(faults: Cluster, namespace: str, module: Module) -> None:
    """In a DaemonSet that somebody made by hand, since our settings refuse a name in upper case."""
    faults.push(FATES["fine"])
    faults.push(FATES["private"])
    faults.push(FATES["foreign"], architecture="s390x")
    faults.push(FATES["slow"], size_mb=200)
    faults.registry_fault("private/", "auth", user="reader", password="truth-and-nothing-else")
    faults.registry_fault("fates-slow/", "slow", bytes_per_second=4_000_000)
    faults.kubectl("create", "namespace", namespace)
    made = known_daemonset(namespace, "made-by-hand", FATES)
    faults.kubectl("apply", "-f", "-", input=json.dumps(made))
    mark = faults.audit_mark()

    def all_told() -> dict[str, Any]:
        info = module("info")
        states = told(info)
        slow.update(place for place, state in states.items() if place[1] == "slow" and state == "pulling")
        assert {place: state for place, state in states.items() if place[1] != "slow"} == want
        assert slow == {(node, "slow") for node in faults.nodes}, "nobody told of its pull"
        return info

    want = {(node, name): "cached" if name == "fine" else "failed" for node in faults.nodes for name in FATES}
    want = {place: state for place, state in want.items() if place[1] != "slow"}
    slow = set[tuple[str, str]]()
    info = eventually(all_told, seconds=90)
    assert told(info, "class") == {(node, name): CLASSES.get(name) for node in faults.nodes for name in FATES}
    assert info["verdict"] == "Degraded"
    assert info["settings"] is None
    assert info["problems"] == [f"ConfigMap {namespace}/k8s-image-puller does not exist"]
    text = text_of(info)
    for name, class_ in CLASSES.items():
        said = rf"{name} \(.*?\) failed on 2 nodes .*?: {class_}\. The kubelet says: .*? Remedy: "
        assert re.search(said, text), text

    # The same as a page and as JSON.
    document = report.document(module("info", matrix=True), time="2026-11-23T12:00:00Z", version="0")
    (data,) = json.loads(report.to_json(document))["sets"]
    (page,) = report.read(to_html(document))["sets"]
    for rows in (data["rows"], list(Matrix(**page["matrix"]).rows())):
        assert told({"rows": rows}).items() >= want.items()
        assert told({"rows": rows}, "class") == told(info, "class")

    def settled() -> dict[str, Any]:
        info = module("info", daemonset_name="made-by-hand")
        return info if info["summary"]["held"] == 4 else {}

    info = eventually(settled, seconds=120)
    rows = {row["name"]: row for row in info["rows"]}
    assert rows["slow"]["pull_seconds"] > 25
    assert rows["slow"]["size"] > 190_000_000
    assert told(info, "class") == {(node, name): CLASSES.get(name) for node in faults.nodes for name in FATES}
    assert [e for e in faults.audit(mark) if e["namespace"] == namespace and e["verb"] not in ("get", "list")] == []
    assert "truth-and-nothing-else" not in json.dumps(info)


def test_a_set_of_which_there_is_only_the_config_map_or_only_the_daemonset(
    cluster: Cluster, namespace: str, module: Module
) -> None:
    cluster.push(GOOD["good"])
    module("install", images=GOOD, controller=False)
    info = module("info")
    assert (info["verdict"], info["settings"]["images"]) == ("Absent", [{"name": "good", "image": GOOD["good"]}])
    module("daemonset", wait=True, wait_timeout=60)
    cluster.kubectl("delete", "configmap", "k8s-image-puller", "-n", namespace, "--cascade=orphan")
    info = module("info")
    assert (info["verdict"], info["settings"]) == ("Healthy", None)
    assert [image["name"] for image in info["images"]] == ["good"]
    assert info["problems"] == [f"ConfigMap {namespace}/k8s-image-puller does not exist"]


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(cluster: Cluster, module: Module) -> Callable[..., dict[str, Any]]:
    """Install images, one of which no registry has, and keep the DaemonSet with these options."""
    cluster.push(GOOD["good"])
    module("install", images=GOOD | ABSENT, controller=False)

    def keep(**options: Any) -> dict[str, Any]:
        return module("daemonset", wait=True, **options)

    return keep


def test_a_wait_for_some_images_does_not_mind_the_others(kept: Callable[..., dict[str, Any]]) -> None:
    seen = kept(wait_for={"images": ["good"]}, wait_timeout=60)
    assert seen["verdict"] == "Degraded"
    assert [(image["name"], image["cached"]) for image in seen["report"]["images"]] == [("good", 2), ("absent", 0)]


def test_a_failure_that_is_excused_ends_no_wait(kept: Callable[..., dict[str, Any]]) -> None:
    assert kept(wait_for='{"excuse": ["not_found"]}', wait_timeout=60)["summary"]["cached"] == 2
    message = kept(ok=False, wait_timeout=60)["msg"]
    assert re.match(
        rf"absent \({ABSENT['absent']}\) failed on 2 nodes \(.*?\): not_found\. The kubelet says: ", message
    )
    assert "Remedy: correct the tag or the repository, or push the image." in message


def test_a_policy_that_can_not_be_meant_is_refused_before_anything_is_done(
    kept: Callable[..., dict[str, Any]], kubectl: Kubectl
) -> None:
    refused = kept(ok=False, wait_for={"nodes": "101%", "excuse": ["no_spcae"]})["msg"]
    assert "wait_for.nodes '101%'" in refused
    assert "write no_space" in refused
    refused = kept(ok=False, wait_for={"images": ["goood"]})["msg"]
    assert "wait_for.images 'goood': no image has this name. Remedy: write good." in refused
    assert kubectl.get("daemonset", DAEMONSET) is None


def test_an_installation_refuses_such_a_policy_before_anything_is_made(
    cluster: Cluster, namespace: str, playbook: Playbook
) -> None:
    run = playbook("install", ok=False, images=GOOD, controller=False, wait_for={"images": ["goood"]})
    assert "no image has this name. Remedy: write good." in run.stdout
    assert not cluster.kubectl("get", "namespace", namespace, "--ignore-not-found")


def test_a_wait_whose_time_is_over_fails_or_warns(faults: Cluster, module: Module) -> None:
    faults.push(f"{HOST}/hanging/image:1")
    faults.registry_fault("hanging/", "hang")
    module("install", images={"hanging": f"{HOST}/hanging/image:1"}, controller=False)
    failed = module("daemonset", wait=True, wait_timeout=4, ok=False)
    assert failed["msg"].startswith("Not cached after 4 s: 1 image is still to come on 2 nodes")
    assert "Remedy: raise wait_timeout" in failed["msg"]
    warned = module("daemonset", wait=True, wait_timeout=1, on_timeout="warn")
    assert any("Not cached after 1 s" in json.dumps(warning) for warning in warned["warnings"])
    assert warned["verdict"] == "Progressing"


@pytest.fixture
def silent(cluster: Cluster) -> Iterator[str]:
    """A node that says it is ready, and whose kubelet does nothing."""
    name = f"silent-{uuid.uuid4().hex[:8]}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}}
    room = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "50Gi"}
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}
    status = {"status": {"capacity": room, "allocatable": room, "conditions": [{**ready, "reason": "KubeletReady"}]}}
    cluster.kubectl("create", "-f", "-", input=json.dumps(node))
    cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    yield name
    cluster.kubectl("delete", "node", name, "--ignore-not-found")


@pytest.mark.parametrize(
    "leave", ["delete node {}", "taint node {} ToBeDeletedByClusterAutoscaler=now:NoSchedule"], ids=["gone", "marked"]
)
def test_a_node_that_goes_away_during_a_wait_is_waited_for_no_longer(
    cluster: Cluster, module: Module, silent: str, leave: str
) -> None:
    cluster.push(GOOD["good"])
    module("install", images=GOOD, controller=False, daemonset=True)
    eventually(lambda: module("info")["summary"] | {"held": 2} == module("info")["summary"], 60)
    before = {row["node"]: row["state"] for row in module("info")["rows"]}
    assert (len(before), before[silent]) == (3, "waiting")
    start = time.monotonic()
    timer = threading.Timer(4, cluster.kubectl, leave.format(silent).split())
    timer.start()
    try:
        waited = module("daemonset", wait=True, wait_timeout=60)
    finally:
        timer.join()
    assert 4 < time.monotonic() - start < 40
    assert waited["verdict"] == "Healthy"
    assert waited["summary"]["cached"] == waited["summary"]["nodes"] == 2
    assert waited["summary"]["excused_nodes"] == (0 if leave.startswith("delete") else 1)


def test_no_node_to_cache_on_fails_an_installation_and_is_a_note_for_the_others(
    cluster: Cluster, playbook: Playbook
) -> None:
    cluster.push(GOOD["good"])
    nowhere: dict[str, Any] = {"controller": False, "node_selector": {"pool": "of-no-node"}}
    sentence = "no node matches"
    failed = " ".join(playbook("install", ok=False, images=GOOD, **nowhere).stdout.split())
    assert sentence in failed
    assert "set min_nodes to 0 if the nodes are still to come" in failed
    assert "NoMatchingNodes: DaemonSet" in playbook("install", images=GOOD, min_nodes=0, **nowhere).stdout
    for said in (playbook("health_check", health_check_fail=True).stdout, playbook("status").stdout):
        assert "NoMatchingNodes: DaemonSet" in said
        assert sentence in " ".join(said.split())


@pytest.mark.thorough
def test_images_and_controller_are_one_wait(faults: Cluster, playbook: Playbook) -> None:
    """One time for both, one choice of what happens when it is over, and lines that tell of both."""
    faults.push(GOOD["good"])
    faults.registry_fault("truth-late/", "error", status=503)
    image = f"{HOST}/truth-late/controller:1"
    start = time.monotonic()
    run = playbook("install", images=GOOD, image=image, wait_timeout=20, on_timeout="warn")
    assert 20 < time.monotonic() - start < 50
    lines = re.findall(r"^\[localhost\] \d+ s: (.*)$", run.stdout, re.MULTILINE)
    assert lines, run.stdout
    assert all("Deployment" in line and "is not available: " in line for line in lines)
    told = " ".join(run.stdout.split())
    assert "Not cached after 20 s: Deployment" in told
    assert f"is not available: its image {image} can't be pulled (network)." in told
    assert "1 of 1 image cached on both nodes" in told
    failed = playbook("install", ok=False, images=GOOD, image=image, wait_timeout=6)
    assert "Not cached after 6 s: Deployment" in " ".join(failed.stdout.split())


def test_a_play_that_waits_says_how_far_it_is(faults: Cluster, playbook: Playbook) -> None:
    """Off a terminal, as in the log of a job; from call to call the module keeps what was done in one result."""
    images = {"good": GOOD["good"], "slow": f"{HOST}/slower/image:1"}
    for image in images.values():
        faults.push(image, size_mb=20 if "slower" in image else 0)
    faults.registry_fault("slower/", "slow", bytes_per_second=2_000_000)
    run = playbook("install", "-v", images=images, controller=False)
    lines = re.findall(r"^\[localhost\] (\d+) s: (\d) of 4 cached on 2 nodes; (.*)$", run.stdout, re.MULTILINE)
    assert lines, run.stdout
    assert any("pulling slow on 2" in line for _, _, line in lines)
    assert all(line.endswith(("left", "unknown")) for _, _, line in lines)
    assert "wait_slice" not in run.stdout.split("RUNNING HANDLER")[0].split('"invocation"')[0]
    assert "2 of 2 images cached on both nodes" in run.stdout
    again = playbook("health_check", controller=False, health_check_fail=True)
    assert not re.search(r"^\[localhost\]", again.stdout, re.MULTILINE)
    assert again.changed == 0
