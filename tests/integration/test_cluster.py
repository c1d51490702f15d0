# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded cluster keeps its own promises: real pulls, faults on order, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster, ClusterError, images, leftovers, of_this_checkout, open_cluster
from tests.cluster.embedded import EmbeddedCluster, state_root
from tests.cluster.processes import Process, processes, wait_until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or os.environ.get("IMAGE_PULLER_TEST_CLUSTER", "embedded") != "embedded",
    reason="tests the embedded cluster with real nodes, which needs root",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this file's own."""
    cluster = open_cluster(of_this_checkout("test-cluster"), nodes=2)
    cluster.up()
    yield cluster
    cluster.down()


def run_pod(cluster: Cluster, name: str, image: str, **spec: Any) -> None:
    """Start a pod with one container."""
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"} | spec.pop("container", {})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod))


def waiting(cluster: Cluster, name: str) -> str:
    """Why a pod's container waits, once that is an error."""
    messages: list[str] = []

    def told() -> bool:
        status = json.loads(cluster.kubectl("get", "pod", name, "-o", "json"))["status"]
        states = [container["state"].get("waiting", {}) for container in status.get("containerStatuses", [])]
        messages[:] = [state["message"] for state in states if "message" in state]
        return bool(messages)

    assert wait_until(told, 40, 0.3), f"pod {name} does not fail"
    return messages[0]


def await_running(cluster: Cluster, name: str) -> None:
    """Wait until a pod is Ready."""
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_a_daemonset_brings_its_image_to_every_node(cluster: Cluster) -> None:
    digest = cluster.push("quay.io/team/theia:1", size_mb=4, layers=2)
    labels = {"app": "cache"}
    daemonset = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "cache"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "theia", "image": "quay.io/team/theia:1"}]},
            },
        },
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(daemonset))
    cluster.kubectl("rollout", "status", "daemonset/cache", "--timeout=60s")
    assert [cluster.node(name).images()["quay.io/team/theia:1"] for name in cluster.nodes] == [digest] * 2
    cluster.kubectl("delete", "daemonset", "cache")


def test_a_pod_reaches_the_api_by_its_service(cluster: Cluster) -> None:
    ref = f"{cluster.registry}/test/kubectl:1"
    cluster.push(ref, files={"/kubectl": cluster.tool("kubectl")}, entrypoint=["/kubectl"])
    command = {"args": ["get", "--raw", "/version"]}
    run_pod(cluster, "asks", ref, container=command, restartPolicy="Never")
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s")
    assert json.loads(cluster.kubectl("logs", "asks"))["gitVersion"].startswith("v1.")


def test_pods_of_different_nodes_reach_each_other(cluster: Cluster) -> None:
    busybox = f"{cluster.registry}/test/busybox:1"
    for name, node in zip(("one", "two"), cluster.nodes, strict=True):
        run_pod(cluster, name, busybox, nodeName=node)
    for name in ("one", "two"):
        await_running(cluster, name)
    address = cluster.kubectl("get", "pod", "two", "-o", "jsonpath={.status.podIP}")
    assert "1 packets received" in cluster.kubectl("exec", "one", "--", "ping", "-c1", "-W5", address)


def test_a_pods_image_can_come_from_an_archive(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    image = images.build({"/pause": cluster.tool("pause")}, seed="archive", Entrypoint=["/pause"])
    archive = tmp_path / "image.tar"
    descriptor = {"mediaType": images.MANIFEST, "digest": image.digest, "size": len(image.manifest)}
    files = {f"blobs/sha256/{images.digest(blob)[7:]}": blob for blob in (*image.layers, image.config, image.manifest)}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert cluster.push_archive(archive, "quay.io/team/archive:1") == image.digest
    run_pod(cluster, "archive", "quay.io/team/archive:1", nodeName=cluster.nodes[0])
    await_running(cluster, "archive")
    assert cluster.node(cluster.nodes[0]).images()["quay.io/team/archive:1"] == image.digest


def test_a_name_that_does_not_exist_fails_at_once(cluster: Cluster) -> None:
    run_pod(cluster, "misspelt", "egistry.access.redhat.com/team/app:1")
    assert "lookup egistry.access.redhat.com" in (message := waiting(cluster, "misspelt"))
    assert "no such host" in message


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("auth", {"user": "u", "password": "p"}, "no basic auth credentials"),
        ("rate_limit", {"retry_after": 5}, "429 Too Many Requests"),
        ("error", {"status": 503}, "503 Service Unavailable"),
    ],
)
def test_the_registry_misbehaves_on_order(cluster: Cluster, kind: str, options: dict[str, Any], expected: str) -> None:
    name = kind.replace("_", "-")
    ref = f"quay.io/{name}/app:1"
    cluster.push(ref)
    cluster.registry_fault(f"quay.io/{name}/", kind, **options)
    run_pod(cluster, name, ref)
    assert expected in waiting(cluster, name)
    cluster.registry_clear()


def test_the_registry_can_be_slow_or_silent(cluster: Cluster) -> None:
    cluster.push("quay.io/tired/app:1", size_mb=0.2)

    def seconds(limit: float = 20) -> float:
        """How long the image's last layer takes from within the network."""
        script = (
            "import json, sys, time\n"
            "from urllib.request import Request, urlopen\n"
            f"ask = lambda path: Request(sys.argv[1] + path, headers={{'Accept': '{images.MANIFEST}'}})\n"
            "get = lambda path: urlopen(ask(path), timeout=float(sys.argv[2])).read()\n"
            "started = time.time()\n"
            "get('blobs/' + json.loads(get('manifests/1'))['layers'][-1]['digest'])\n"
            "print(time.time() - started)"
        )
        base = f"http://{cluster.registry}/v2/tired/app/"
        return float(cluster.run([sys.executable, "-c", script, base, str(limit)]).stdout)

    assert seconds() < 1
    cluster.registry_fault("tired/", "delay", seconds=0.6)
    assert seconds() >= 1.2, "two requests"
    cluster.registry_fault("tired/", "slow", bytes_per_second=800_000)
    assert seconds() >= 1, "a program of more than 800 kB is in the layer"
    cluster.registry_fault("tired/", "hang")
    with pytest.raises(ClusterError, match="timed out"):
        seconds(limit=1)
    cluster.registry_clear()
    with pytest.raises(ClusterError, match=r"no fault slow\(speed\)"):
        cluster.registry_fault("tired/", "slow", speed=1)


def test_images_can_be_broken(cluster: Cluster) -> None:
    cluster.push("quay.io/broken/layer:1", broken="layer")
    cluster.push("quay.io/broken/manifest:1", broken="manifest")
    cluster.push("quay.io/broken/platform:1", architecture="riscv64")
    for name in ("layer", "manifest", "platform"):
        run_pod(cluster, f"broken-{name}", f"quay.io/broken/{name}:1")
    assert "unexpected commit digest" in waiting(cluster, "broken-layer")
    assert "500 Internal Server Error" in waiting(cluster, "broken-manifest")
    assert "no match for platform" in waiting(cluster, "broken-platform")


def test_a_cached_image_starts_with_the_registry_off(cluster: Cluster) -> None:
    ref = "quay.io/team/cached:1"
    cluster.push(ref)
    node = cluster.nodes[0]
    run_pod(cluster, "first", ref, nodeName=node)
    await_running(cluster, "first")
    since = time.time()
    cluster.registry_stop()
    try:
        run_pod(cluster, "second", ref, nodeName=node)
        run_pod(cluster, "elsewhere", ref, nodeName=cluster.nodes[1])
        await_running(cluster, "second")
        assert "connection refused" in waiting(cluster, "elsewhere")
    finally:
        cluster.registry_start()
    assert cluster.registry_requests(since) == []


def test_an_image_can_be_removed_from_a_node(cluster: Cluster) -> None:
    cluster.push("quay.io/team/removed:1")
    node = cluster.node(cluster.nodes[0])
    run_pod(cluster, "holder", "quay.io/team/removed:1", nodeName=node.name)
    await_running(cluster, "holder")
    assert "quay.io/team/removed:1" in {container["image"] for container in node.containers()}
    cluster.kubectl("delete", "pod", "holder")
    node.remove_image("quay.io/team/removed:1")
    assert not node.has_image("quay.io/team/removed:1")


def test_the_audit_tells_who_wrote_what(cluster: Cluster) -> None:
    mark = cluster.audit_mark()
    cluster.kubectl("create", "configmap", "noted")
    cluster.kubectl("get", "configmap", "noted")
    entries = cluster.audit(mark)
    writes = [(entry["verb"], entry["resource"], entry["name"]) for entry in entries if entry["verb"] == "create"]
    assert writes == [("create", "configmaps", "noted")]
    assert ("get", "noted", 200) in {(entry["verb"], entry["name"], entry["code"]) for entry in entries}


@pytest.mark.thorough
def test_nodes_stop_start_come_and_go(cluster: Cluster) -> None:
    node = cluster.node(cluster.nodes[0])
    run_pod(cluster, "survivor", f"{cluster.registry}/test/busybox:1", nodeName=node.name)
    await_running(cluster, "survivor")
    image = f"{cluster.registry}/test/busybox:1"
    before = [container for container in node.containers() if container["image"] == image]
    node.stop()
    with pytest.raises(ClusterError):
        node.images()
    node.start()
    after = node.containers()  # Those of a namespace that is just going may have ended.
    assert before
    assert all(container in after for container in before), "containers outlive their runtime's restart"
    added = cluster.add_node(labels={"pool": "new"}, taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert added in cluster.nodes
    spec = json.loads(cluster.kubectl("get", "node", added, "-o", "json"))
    assert spec["metadata"]["labels"]["pool"] == "new"
    assert spec["spec"]["taints"][0]["key"] == "k"
    tolerate = [{"operator": "Exists"}]
    run_pod(cluster, "guest", f"{cluster.registry}/test/busybox:1", nodeName=added, tolerations=tolerate)
    await_running(cluster, "guest")
    cluster.remove_node(added)
    assert added not in cluster.kubectl("get", "nodes", "-o", "name")
    directory = f"{cluster.kubeconfig.parent}/{added}/"
    assert not any(directory in argument for process in processes() for argument in process.arguments())


def test_components_stop_and_start(cluster: Cluster) -> None:
    cluster.component_stop("kube-apiserver")
    assert not cluster.is_up
    cluster.component_start("kube-apiserver")
    assert cluster.is_up
    with pytest.raises(ClusterError, match="no component kubelet"):
        cluster.component_stop("kubelet")


def test_simulated_nodes_stand_beside_real_ones(cluster: Cluster) -> None:
    cluster.simulate(3)
    names = cluster.kubectl("get", "nodes", "-o", "name").split()
    assert names == [f"node/{name}" for name in (*cluster.nodes, "sim-0", "sim-1", "sim-2")]
    cluster.simulate(0)
    assert len(cluster.kubectl("get", "nodes", "-o", "name").split()) == len(cluster.nodes)


def test_a_process_can_move_into_the_network(cluster: Cluster) -> None:
    script = (
        "import socket; from tests.cluster import of_this_checkout, open_cluster\n"
        "c = open_cluster(of_this_checkout('test-cluster'))\n"
        "host, port = c.registry.split(':')\n"
        "c.enter(); socket.create_connection((host, int(port)), 5); print(c.kubectl('get', '--raw', '/readyz'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "ok\n"


def test_another_clusters_kubeconfig_can_be_used(cluster: Cluster) -> None:
    """An existing cluster and a registry, as this process would see them in the cluster's network."""
    script = (
        "from tests.cluster import open_cluster; c = open_cluster(); c.up(); c.push('quay.io/team/existing:1');"
        "c.down(); print(c.nodes, c.is_up)"
    )
    chosen = {"IMAGE_PULLER_TEST_CLUSTER": str(cluster.kubeconfig), "IMAGE_PULLER_TEST_REGISTRY": cluster.registry}
    done = cluster.run([sys.executable, "-c", script], env=chosen | {"PYTHONPATH": str(pathlib.Path.cwd())})
    assert done.stdout.strip() == f"{cluster.nodes} True"


@pytest.mark.thorough
def test_two_clusters_do_not_meet_and_leave_nothing(cluster: Cluster) -> None:
    before = leftovers.take(of_this_checkout("test-other"))
    other = open_cluster(of_this_checkout("test-other"), nodes=1)
    other.up()
    assert other.nodes == ["node-1"]
    other.kubectl("create", "configmap", "only-here")
    assert "only-here" not in cluster.kubectl("get", "configmaps", "-o", "name")
    other.push("quay.io/team/other:1")
    run_pod(other, "left-running", "quay.io/team/other:1")
    await_running(other, "left-running")
    other.down()
    other.down()
    assert cluster.is_up
    assert leftovers.compare(before, leftovers.take(of_this_checkout("test-other"))) == []


@pytest.mark.parametrize("moment", [0.15, *(pytest.param(later, marks=pytest.mark.thorough) for later in (1.5, 4.0))])
def test_up_after_a_crash_cleans_up_first(moment: float) -> None:
    before = leftovers.take(of_this_checkout("test-crash"))
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", of_this_checkout("test-crash"), "--nodes", "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as starting:
        state = state_root() / of_this_checkout("test-crash")
        assert wait_until(state.exists, 30, 0.01)
        time.sleep(moment)
        starting.send_signal(signal.SIGKILL)
    cluster = open_cluster(of_this_checkout("test-crash"), nodes=1)
    assert not cluster.is_up
    cluster.up()
    assert cluster.is_up
    cluster.down()
    assert leftovers.compare(before, leftovers.take(of_this_checkout("test-crash"))) == []


@pytest.mark.thorough
def test_a_kubelet_that_ends_while_it_starts_is_started_again() -> None:
    """Of two that start at once one may find the socket for devices taken, and ends."""
    name = of_this_checkout("test-revive")
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", name, "--nodes", "1"]
    noted = state_root() / name / "cluster.json"

    def kubelet() -> Process | None:
        known = json.loads(noted.read_text())["processes"] if noted.exists() else {}
        return Process(*known["node-1/kubelet"]) if "node-1/kubelet" in known else None

    cluster = open_cluster(name, nodes=1)
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
            assert wait_until(lambda: kubelet() is not None, 60, 0.01)
            first = kubelet()
            assert first
            first.send(signal.SIGKILL)
        assert starting.returncode == 0
        assert kubelet() not in (None, first)
        assert cluster.is_up
    finally:
        cluster.down()


def test_the_ids_of_others_are_never_used(cluster: Cluster) -> None:
    """An id that was given to another process since is left alone."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        now = Process.of(bystander.pid)
        assert now
        Process(now.pid, now.started - 1).stop()
        assert now.alive
        bystander.kill()


def test_on_loopback_there_are_simulated_nodes_only() -> None:
    before = leftovers.take(of_this_checkout("test-loopback"))
    cluster = open_cluster(of_this_checkout("test-loopback"), nodes=0, simulated=2)
    cluster.up()
    try:
        assert isinstance(cluster, EmbeddedCluster)
        assert cluster.registry.startswith("127.0.0.1:")
        assert cluster.kubectl("get", "nodes", "-o", "name").split() == ["node/sim-0", "node/sim-1"]
        assert cluster.push("quay.io/team/loopback:1").startswith("sha256:")
        opened = {
            line for line in leftovers.take(cluster.name).listening - before.listening if "127.0.0.1:" not in line
        }
        assert opened == set(), "everything listens on loopback only"
        with pytest.raises(ClusterError, match="no real nodes"):
            cluster.node("node-1")
    finally:
        cluster.down()
    assert leftovers.compare(before, leftovers.take(of_this_checkout("test-loopback"))) == []
