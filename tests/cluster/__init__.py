# SPDX-License-Identifier: GPL-3.0-or-later
"""A Kubernetes cluster for tests and the demonstration, with a registry: `open_cluster()`.

Which one is chosen by IMAGE_PULLER_TEST_CLUSTER: `embedded` (default: processes on this machine), `kind`, or the path
of a kubeconfig. KUBECONFIG and K8S_AUTH_* of the environment are never used.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import images, tools
from .node import Node, Taint
from .processes import ClusterError, join_network

__all__ = ["Cluster", "ClusterError", "Node", "of_this_checkout", "open_cluster"]

Report = Callable[[str], None]
MIRRORED = (
    "registry.access.redhat.com",
    "registry.redhat.io",
    "quay.io",
    "ghcr.io",
    "docker.io",
    "registry.example.com",
)


def of_this_checkout(name: str) -> str:
    """A cluster's name that no other checkout on this machine uses, so that their tests can run side by side."""
    checkout = pathlib.Path(__file__).resolve().parents[2]
    return f"{name}-{hashlib.sha256(str(checkout).encode()).hexdigest()[:4]}"


def open_cluster(name: str = "default", nodes: int = 2, simulated: int = 0, *, report: Report | None = None) -> Cluster:
    """The cluster of this name; nothing is started or changed.

    nodes, simulated: what `up` makes: real nodes (need root), and nodes without a machine. report: told of each step.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", name):
        raise ClusterError(f"{name!r} can't be a cluster's name: use up to 30 of a-z, 0-9 and -")
    provider = os.environ.get("IMAGE_PULLER_TEST_CLUSTER") or "embedded"
    if provider == "embedded":
        from .embedded import EmbeddedCluster

        return EmbeddedCluster(name, nodes, simulated, report)
    if provider == "kind":
        from .kind import KindCluster

        return KindCluster(name, nodes, simulated, report)
    if not pathlib.Path(provider).is_file():
        raise ClusterError(f"IMAGE_PULLER_TEST_CLUSTER={provider} is neither embedded, nor kind, nor a kubeconfig file")
    from .kind import ExistingCluster

    return ExistingCluster(pathlib.Path(provider).absolute(), report)


class Cluster(abc.ABC):
    """What tests may ask of any cluster. What a provider can't do raises ClusterError."""

    kubeconfig: pathlib.Path

    def __init__(self, name: str, report: Report | None = None) -> None:
        self.name = name
        self.report: Report = report or (lambda _: None)

    # Life

    @abc.abstractmethod
    def up(self) -> None:
        """Start the cluster and wait until pods can start on every node; nothing if it is up."""

    @abc.abstractmethod
    def down(self) -> None:
        """End the cluster and take away everything that it made; nothing if there is none."""

    @property
    @abc.abstractmethod
    def is_up(self) -> bool:
        """Whether the cluster was started and its API answers."""

    @property
    @abc.abstractmethod
    def nodes(self) -> list[str]:
        """Names of the real nodes."""

    @abc.abstractmethod
    def node(self, name: str) -> Node:
        """A real node."""

    # Reaching it

    @property
    def network(self) -> pathlib.Path | None:
        """The network namespace from which the cluster is reached; None: the machine's own."""
        return None

    def enter(self) -> None:
        """Move this process into the cluster's network, for good; call it in the main thread before others start."""
        if self.network:
            join_network(self.network)

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """argv, prefixed so that it runs in the cluster's network."""
        prefix = ["nsenter", f"--net={self.network}", "--"] if self.network else []
        return [*prefix, *(os.fspath(argument) for argument in argv)]

    def environment(self) -> dict[str, str]:
        """The environment for such a command: this cluster's kubeconfig and no other, and our kubectl in PATH."""
        foreign = ("k8s_auth_", "kube", *(("http_proxy", "https_proxy", "all_proxy") if self.network else ()))
        kept = {key: value for key, value in os.environ.items() if not key.lower().startswith(foreign)}
        ours = {
            "KUBECONFIG": str(self.kubeconfig),
            "K8S_AUTH_KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.cache_directory),
        }
        return kept | ours | {"PATH": os.pathsep.join(filter(None, (*self.program_path(), os.environ.get("PATH"))))}

    @property
    def cache_directory(self) -> pathlib.Path:
        """Where kubectl keeps what it learned of the API: with the cluster, because the next one has its address."""
        return self.kubeconfig.with_name("kubectl-cache")

    def program_path(self) -> list[str]:
        """Directories with the cluster's own programs."""
        return []

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float = 120,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the cluster's network and capture what it prints. timeout: seconds; env: additions."""
        environment = self.environment() | dict(env or {})
        done = subprocess.run(
            self.command(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            reason = (done.stderr or done.stdout).strip()
            raise ClusterError(f"{' '.join(map(str, argv))} ended with {done.returncode}: {reason}")
        return done

    def kubectl(self, *arguments: str, check: bool = True, input: str | None = None) -> str:
        """Run kubectl; what it printed."""
        return self.run(["kubectl", *arguments], check=check, input=input).stdout

    # Images

    @property
    @abc.abstractmethod
    def registry(self) -> str:
        """The registry as nodes know it: "address:port"."""

    def push(
        self,
        ref: str,
        *,
        size_mb: float = 0,
        files: Mapping[str, images.Content] | None = None,
        entrypoint: Sequence[str] = ("/pause",),
        user: str = "",
        env: Sequence[str] = (),
        working_dir: str = "",
        volumes: Sequence[str] = (),
        architecture: str = images.MACHINE,
        layers: int = 1,
        seed: str | None = None,
        broken: str | None = None,
        index: bool = False,
    ) -> str:
        """Make an image and push it to the cluster's registry; its digest.

        ref: "quay.io/x/y:1"; the registry's name is left out, so that mirrors find it. size_mb: that don't compress,
        in `layers` layers. files: path -> content, beside the program /pause, which sleeps. seed (default: ref)
        decides the content: equal seeds make equal images. broken: "layer" (it arrives, but is not what its digest
        says) or "manifest" (the registry finds it spoilt: status 500). architecture: another than this machine's makes
        an index without an image for it. index: an index with this one image.
        """
        if broken not in (None, "layer", "manifest"):
            raise ClusterError(f"an image can be broken in its layer or its manifest, not in its {broken}")
        content: dict[str, images.Content] = {"/pause": self.tool("pause")}
        image = images.build(
            content | dict(files or {}),
            size_mb=size_mb,
            layers=layers,
            seed=seed or ref,
            architecture=architecture,
            Entrypoint=list(entrypoint),
            User=user,
            Env=list(env),
            WorkingDir=working_dir,
            Volumes={path: {} for path in volumes},
            Labels={"test.seed": seed or ref},
        )
        digest = images.push(self.connect_registry, image, ref, index=index)
        if broken:
            self.spoil_blob(images.digest(image.layers[0]) if broken == "layer" else digest)
        return digest

    def push_archive(self, archive: pathlib.Path, ref: str) -> str:
        """Push an OCI archive (a tar file with one image or index) under this name; its digest."""
        return images.push_archive(self.connect_registry, archive, ref)

    def push_busybox(self) -> str:
        """Push an image with a shell, for pods that need one; its reference."""
        busybox = self.tool("busybox")
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        ref = f"{self.registry}/test/busybox:1"
        self.push(ref, files=images.busybox_files(busybox, applets), entrypoint=["/bin/sleep", "infinity"])
        return ref

    def tool(self, name: str) -> pathlib.Path:
        """One of the programs that tools.py makes."""
        return tools.program(name, self.report)

    @abc.abstractmethod
    def connect_registry(self) -> http.client.HTTPConnection:
        """A connection to the registry for pushing."""

    def spoil_blob(self, digest: str) -> None:
        """Replace a blob's content in the registry by garbage of the same length."""
        raise self._cannot("break images in its registry")

    # Misbehaviour and records, which only the embedded cluster has

    def registry_fault(self, repo_prefix: str, kind: str, **options: Any) -> None:
        """Let the registry misbehave for repositories with this prefix, until `registry_clear`.

        kind: auth(user, password), slow(bytes_per_second), delay(seconds), rate_limit(retry_after: seconds),
        error(status), hang.
        """
        raise self._cannot("let its registry misbehave")

    def registry_clear(self) -> None:
        """End all misbehaviour."""
        raise self._cannot("let its registry misbehave")

    def registry_requests(self, since: float = 0) -> list[dict[str, Any]]:
        """Requests that nodes sent to the registry after this time (Unix seconds): time, method, path, status."""
        raise self._cannot("list its registry's requests")

    def registry_stop(self) -> None:
        """Stop the registry: connections are refused."""
        raise self._cannot("stop its registry")

    def registry_start(self) -> None:
        """Start the registry again."""
        raise self._cannot("start its registry")

    def audit_mark(self) -> int:
        """Now, as `audit` wants it."""
        raise self._cannot("read the API server's audit log")

    def audit(self, since: int = 0, *, everything: bool = False) -> list[dict[str, Any]]:
        """Requests that the API server has answered since the mark: user, verb, resource (with subresource),
        namespace, name, userAgent, code, uri. Without those of the control plane itself, unless `everything`; never
        those of kubelets, leases and status updates of nodes and pods."""
        raise self._cannot("read the API server's audit log")

    def component_stop(self, name: str) -> None:
        """Stop etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kwok-controller."""
        raise self._cannot("stop its components")

    def component_start(self, name: str) -> None:
        """Start again what `component_stop` stopped; returns when it answers."""
        raise self._cannot("start its components")

    def forget_history(self) -> None:
        """Restart the API server without the history of its objects: who goes on watching from before gets a 410."""
        raise self._cannot("lose its history")

    def cut_off(self, address: str) -> contextlib.AbstractContextManager[None]:
        """Within the context nothing passes between the pod at this address and the API server, and nobody is told:
        connections stay half open."""
        raise self._cannot("cut a pod off")

    def add_node(
        self, labels: Mapping[str, str] | None = None, taints: Sequence[Taint] = (), *, image_disk_mb: int = 0
    ) -> str:
        """Add a real node and wait until it is Ready; its name.

        image_disk_mb: its runtime has a file system of so many megabytes for itself, in memory; less than a quarter
        free is DiskPressure, which passes 30 s after its reason.
        """
        raise self._cannot("get further nodes")

    def remove_node(self, name: str) -> None:
        """Take a real node away, with all that runs on it."""
        raise self._cannot("lose nodes")

    def simulate(self, count: int) -> None:
        """Have so many simulated nodes, named sim-0 and on."""
        raise self._cannot("have simulated nodes")

    def _cannot(self, what: str) -> ClusterError:
        return ClusterError(f"this cluster can't {what}: use the embedded one (IMAGE_PULLER_TEST_CLUSTER=embedded)")


def marker() -> str:
    """A word that nobody used before."""
    return uuid.uuid4().hex
