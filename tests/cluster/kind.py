# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters that other programs run: one made by kind, and any that a kubeconfig leads to.

The kind provider was written from kind's documentation and has not been run by us; it needs kind, docker and kubectl in
PATH. Its registry is a container beside the nodes, mirrored there like the embedded one.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from . import MIRRORED, Cluster, ClusterError, Report
from .embedded import state_root
from .node import Node, Taint
from .processes import wait_until

REGISTRY_IMAGE = "docker.io/library/registry:2"
CERTS = "/etc/containerd/certs.d"


class _ForeignCluster(Cluster):
    """What kind's clusters and existing ones have in common: they are reached from this machine as it is."""

    @property
    def is_up(self) -> bool:
        """See Cluster."""
        if not self.kubeconfig.exists():
            return False
        return self.run(["kubectl", "get", "--raw", "/readyz"], check=False).returncode == 0

    @property
    def nodes(self) -> list[str]:
        """See Cluster."""
        listed = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        open_to_pods = (node for node in listed if not _refuses_pods(node["spec"].get("taints", [])))
        return [node["metadata"]["name"] for node in open_to_pods]

    @property
    def cache_directory(self) -> pathlib.Path:
        """See Cluster."""
        return pathlib.Path.home() / ".kube" / "cache"

    def _needs(self, *programs: str) -> None:
        if missing := [program for program in programs if not shutil.which(program)]:
            raise ClusterError(f"this cluster needs {' and '.join(missing)} in PATH")


class ExistingCluster(_ForeignCluster):
    """A cluster that is there already: never started, ended, or given nodes."""

    def __init__(self, kubeconfig: pathlib.Path, report: Report | None) -> None:
        super().__init__("existing", report)
        self.kubeconfig = kubeconfig

    @property
    def registry(self) -> str:
        """See Cluster."""
        return os.environ.get("IMAGE_PULLER_TEST_REGISTRY", "")

    def up(self) -> None:
        """Only check that it answers."""
        self._needs("kubectl")
        if not self.is_up:
            raise ClusterError(f"the cluster of {self.kubeconfig} does not answer")
        self.report(f"using the cluster of {self.kubeconfig} as it is")

    def down(self) -> None:
        """Nothing: it is not ours."""
        self.report(f"the cluster of {self.kubeconfig} was not ours to end")

    def node(self, name: str) -> Node:
        """See Cluster."""
        raise self._cannot("ask a node's own runtime")

    def connect_registry(self) -> http.client.HTTPConnection:
        """See Cluster."""
        if not self.registry:
            raise ClusterError(
                "set IMAGE_PULLER_TEST_REGISTRY to the address:port of a registry without TLS and password that"
                " both this machine and the cluster's nodes reach"
            )
        return http.client.HTTPConnection(self.registry, timeout=60)


class KindNode(Node):
    """A container of kind's that plays a node."""

    def __init__(self, name: str) -> None:
        super().__init__(name, lambda *arguments: _docker("exec", name, "ctr", "--namespace", "k8s.io", *arguments))

    def stop(self, *, runtime: bool = True) -> None:
        """See Node."""
        _docker("exec", self.name, "systemctl", "stop", "kubelet", *(["containerd"] if runtime else []))

    def start(self) -> None:
        """See Node."""
        _docker("exec", self.name, "systemctl", "start", "containerd", "kubelet")


class KindCluster(_ForeignCluster):
    """A cluster of kind's, with a registry in a container of its own."""

    def __init__(self, name: str, nodes: int, simulated: int, report: Report | None) -> None:
        super().__init__(name, report)
        self._workers = nodes
        self._simulated = simulated
        self._cluster = f"image-puller-{name}"
        self._container = f"{self._cluster}-registry"
        self.kubeconfig = state_root() / f"kind-{name}" / "kubeconfig"

    @property
    def registry(self) -> str:
        """See Cluster."""
        return f"{self._container}:5000"

    def up(self) -> None:
        """See Cluster."""
        self._needs("kind", "docker", "kubectl")
        if self._simulated:
            raise self._cannot("have simulated nodes")
        if self.is_up:
            self.report(f"cluster {self.name} is up already")
            return
        self._remove()
        self.kubeconfig.parent.mkdir(parents=True)
        try:
            self._create()
        except BaseException:
            self._remove()
            raise
        self.report(f"cluster {self.name} is up")

    def _create(self) -> None:
        configuration = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, *({"role": "worker"} for _ in range(self._workers))],
            "containerdConfigPatches": [
                f'[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{CERTS}"\n'
                f'[plugins."io.containerd.cri.v1.images".registry]\n  config_path = "{CERTS}"\n'
            ],
        }
        self.report("starting kind")
        options = ["--name", self._cluster, "--kubeconfig", str(self.kubeconfig), "--wait", "180s", "--config", "-"]
        _call(["kind", "create", "cluster", *options], input=json.dumps(configuration))
        self.report("starting the registry")
        publish = ["--publish", "127.0.0.1::5000"]
        _docker("run", "--detach", "--name", self._container, "--network", "kind", *publish, REGISTRY_IMAGE)
        for node in _call(["kind", "get", "nodes", "--name", self._cluster]).split():
            for host in (self.registry, *MIRRORED):
                text = f'[host."http://{self.registry}"]\n  capabilities = ["pull", "resolve"]\n'
                script = f"mkdir -p {CERTS}/{host} && cat > {CERTS}/{host}/hosts.toml"
                _call(["docker", "exec", "--interactive", node, "sh", "-c", script], input=text)
        if not wait_until(self._registry_answers, 60, 0.5):
            raise ClusterError("the registry's container does not answer within 60 s")
        account = ["get", "serviceaccount", "default"]
        if not wait_until(lambda: self.run(["kubectl", *account], check=False).returncode == 0, 60, 0.5):
            raise ClusterError("the ServiceAccount default does not appear within 60 s")

    def down(self) -> None:
        """See Cluster."""
        self._needs("kind", "docker")
        self._remove()
        self.report(f"cluster {self.name} is down")

    def _remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self._container], capture_output=True, check=False)
        _call(["kind", "delete", "cluster", "--name", self._cluster, "--kubeconfig", str(self.kubeconfig)])
        shutil.rmtree(self.kubeconfig.parent, ignore_errors=True)

    def node(self, name: str) -> Node:
        """See Cluster."""
        return KindNode(name)

    def connect_registry(self) -> http.client.HTTPConnection:
        """See Cluster."""
        address = _docker("port", self._container, "5000/tcp").split()[0]
        return http.client.HTTPConnection(address, timeout=60)

    def _registry_answers(self) -> bool:
        try:
            connection = self.connect_registry()
            connection.request("GET", "/v2/")
            answers = connection.getresponse().status == 200
            connection.close()
        except (OSError, http.client.HTTPException):
            return False
        return answers


def _refuses_pods(taints: Iterable[Taint]) -> bool:
    return any(taint["effect"] != "PreferNoSchedule" for taint in taints)


def _docker(*arguments: str) -> str:
    return _call(["docker", *arguments])


def _call(argv: Sequence[str], input: str | None = None) -> str:
    """Run a command; what it printed. Raises ClusterError."""
    done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
