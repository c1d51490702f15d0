# SPDX-License-Identifier: GPL-3.0-or-later
"""A node: what its container runtime holds, and, for a real one of ours, its kubelet and containerd."""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

from .images import MACHINE
from .processes import Argument, ClusterError, Process, Sandbox, make_cgroup, processes, remove_cgroup, wait_until

Taint = Mapping[str, str]  # key, value, effect
# Test machines' disks may be full.
NO_EVICTION = {
    "memory.available": "1Mi",
    "nodefs.available": "0%",
    "nodefs.inodesFree": "0%",
    "imagefs.available": "0%",
    "imagefs.inodesFree": "0%",
}


class Node:
    """A node as its own runtime tells of it.

    ctr: runs containerd's client on the node with these arguments and returns what it printed.
    """

    def __init__(self, name: str, ctr: Callable[..., str]) -> None:
        self.name = name
        self.ctr = ctr

    def images(self) -> dict[str, str]:
        """What the runtime holds: reference -> digest. Names that it makes up itself (by digest) are left out."""
        return {name: digest for name, digest in self._references().items() if "@" not in name and "/" in name}

    def has_image(self, reference: str) -> bool:
        """Whether exactly this reference is on the node."""
        return reference in self.images()

    def remove_image(self, reference: str) -> None:
        """Take an image from the node, with the names by digest that lead to the same one."""
        held = self.images().pop(reference, None)
        if held is None:
            raise ClusterError(f"{reference} is not on {self.name}")
        if sum(digest == held for digest in self.images().values()) > 1:
            self.ctr("images", "rm", "--sync", reference)
            return
        self.ctr("images", "rm", "--sync", *(name for name, digest in self._references().items() if digest == held))

    def containers(self) -> list[dict[str, str]]:
        """The runtime's containers, sandboxes too, running or not: id and image of each."""
        rows = (line.split() for line in self.ctr("containers", "ls").splitlines()[1:])
        return [{"id": row[0], "image": row[1]} for row in rows]

    def kill(self, container: str, signal: str = "SIGKILL") -> None:
        """Send the first process of a container a signal. container: its id, as the kubelet tells it."""
        self.ctr("tasks", "kill", "--signal", signal, container.removeprefix("containerd://"))

    def runs(self, container: str) -> bool:
        """Whether a container's process is alive. container: its id, as the kubelet tells it."""
        id_ = container.removeprefix("containerd://")
        return any(line.startswith(id_) and "RUNNING" in line for line in self.ctr("tasks", "ls").splitlines())

    def stop(self, *, runtime: bool = True) -> None:
        """Stop the kubelet, and the runtime too if `runtime`; containers go on."""
        raise ClusterError(f"{self.name} is not a node that this cluster can stop")

    def start(self) -> None:
        """Start again what `stop` stopped."""
        raise ClusterError(f"{self.name} is not a node that this cluster can start")

    def _references(self) -> dict[str, str]:
        rows = (line.split() for line in self.ctr("images", "ls").splitlines()[1:])
        return {row[0]: row[2] for row in rows}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the nodes of one cluster have in common. registry: "address:port"."""

    cluster: str
    state: pathlib.Path
    sandbox: Sandbox
    registry: str
    mirrored: Sequence[str]
    api: str
    pki: pathlib.Path
    record: Callable[[str, Process | None], None]  # note a process under a name; None: it is gone
    recorded: Callable[[str], Process | None]


class RealNode(Node):
    """kubelet and containerd in the cluster's sandbox. number: 1 for node-1."""

    def __init__(self, setting: Setting, number: int) -> None:
        super().__init__(f"node-{number}", self._ctr)
        self.setting = setting
        self.number = number
        self._programs = setting.state / "bin"
        self.address = f"10.254.0.{10 + number}"
        self.directory = setting.state / self.name
        self.socket = self.directory / "containerd.sock"
        self.cgroup = f"image-puller-{setting.cluster}/{self.name}"

    def _ctr(self, *arguments: str) -> str:
        program = str(self._programs / "ctr")
        command = [program, "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ClusterError(f"ctr {' '.join(arguments)} on {self.name}: {done.stderr.strip()}")
        return done.stdout

    # Life

    def start_runtime(self, image_disk_mb: int = 0) -> None:
        """Start containerd and wait until it answers. image_disk_mb: see Cluster.add_node; counts on first start."""
        if not self.directory.exists():
            self._write_runtime_configuration()
            if image_disk_mb:
                self._mount_image_disk(image_disk_mb)
        self._start("containerd", ["--config", self.directory / "containerd.toml"])
        if not wait_until(self._runtime_answers, 20):
            raise ClusterError(f"containerd of {self.name} is not ready; see {self.log('containerd')}")

    def start_kubelet(
        self, labels: Mapping[str, str] | None = None, taints: Sequence[Taint] = (), image_disk_mb: int = 0
    ) -> None:
        """Start the kubelet, which makes the Node object on first start; what is given counts then."""
        configuration = self.directory / "kubelet.json"
        if not configuration.exists():
            self._write_certificate()
            settings = self._kubelet_configuration(taints)
            if image_disk_mb:
                settings["evictionHard"] = NO_EVICTION | {"imagefs.available": "25%"}
                settings["evictionPressureTransitionPeriod"] = "30s"
                settings["imageMinimumGCAge"] = "5s"  # else nothing is freed that came in the last two minutes
            configuration.write_text(json.dumps(settings))
            text = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
            (self.directory / "labels").write_text(text)
        options = {
            "config": configuration,
            "kubeconfig": self.directory / "kubeconfig",
            "hostname-override": self.name,
            "node-ip": self.address,
            "node-labels": (self.directory / "labels").read_text(),
            "root-dir": self.directory / "kubelet",
            "cert-dir": self.directory / "kubelet" / "pki",
        }
        self._start("kubelet", [f"--{key}={value}" for key, value in options.items()])

    def stop(self, *, runtime: bool = True) -> None:
        """See Node."""
        for program in ("kubelet", "containerd") if runtime else ("kubelet",):
            if process := self.setting.recorded(f"{self.name}/{program}"):
                process.stop()
                self.setting.record(f"{self.name}/{program}", None)

    def start(self) -> None:
        """See Node."""
        if not self._running("containerd"):
            self.start_runtime()
        if not self._running("kubelet"):
            self.start_kubelet()

    def destroy(self) -> None:
        """End the node and all that runs on it, while the rest of the cluster goes on."""
        self.stop()
        remove_cgroup(self.cgroup)  # its pods; each one's shim ends with it or is ended here
        for shim in self._shims():
            shim.stop(0)
        self.setting.sandbox.run(["sh", "-c", self._CLEANUP, self.directory, self.address])

    _CLEANUP = """
        ip addr del "$1/24" dev node
        ip link del "$(basename "$0")"
        tac /proc/self/mounts | while read -r device target rest; do
            case $target in "$0"/*) umount -l "$target" ;; esac
        done
        rm -rf "$0"
    """

    def _shims(self) -> list[Process]:
        return [
            process
            for process in processes()
            if (arguments := process.arguments())
            and arguments[0].endswith("containerd-shim-runc-v2")
            and str(self.socket) in arguments
        ]

    def log(self, program: str) -> pathlib.Path:
        """Where a program of this node writes its log."""
        return self.setting.state / "log" / f"{self.name}-{program}.log"

    def _start(self, program: str, arguments: Sequence[str | pathlib.Path]) -> None:
        argv = [self._programs / program, *arguments]
        # containerd finds its shim and runc in PATH
        process = self.setting.sandbox.start(argv, self.log(program), path=self._programs)
        self.setting.record(f"{self.name}/{program}", process)

    def _running(self, program: str) -> bool:
        process = self.setting.recorded(f"{self.name}/{program}")
        return process is not None and process.alive

    def _runtime_answers(self) -> bool:
        try:
            self.ctr("version")
        except ClusterError:
            return False
        return True

    # Configuration

    def _write_runtime_configuration(self) -> None:
        """Directories, address, cgroup, and containerd's and its network plugins' configuration."""
        directory = self.directory
        for registry in (self.setting.registry, *self.setting.mirrored):
            hosts = directory / "certs.d" / registry
            hosts.mkdir(parents=True)
            address = f"http://{self.setting.registry}"
            (hosts / "hosts.toml").write_text(
                f'server = "{address}"\n[host."{address}"]\n  capabilities = ["pull", "resolve"]\n'
            )
        (directory / "cni").mkdir()
        (directory / "cni" / "10-bridge.conflist").write_text(json.dumps(self._network()))
        (directory / "containerd.toml").write_text(self._runtime())
        self.setting.sandbox.run(["ip", "addr", "add", f"{self.address}/24", "dev", "node"])
        make_cgroup(self.cgroup)

    def _mount_image_disk(self, megabytes: int) -> None:
        """A file system in memory for images and containers, so that filling it fills nothing else."""
        (self.directory / "root").mkdir()
        options = f"size={megabytes}m"
        self.setting.sandbox.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.directory / "root"])

    def _network(self) -> dict[str, object]:
        """One bridge for each node; all are in one namespace, so pods of different nodes reach each other by it."""
        addresses = {
            "type": "host-local",
            "dataDir": str(self.directory / "addresses"),
            "ranges": [[{"subnet": f"10.253.{self.number}.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": self.name, "isGateway": True, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "1.0.0", "name": self.name, "plugins": [bridge]}

    def _runtime(self) -> str:
        directory = self.directory
        # An overlay can't lie on an overlay (as in a container): then layers are copied.
        snapshotter = "native" if _file_system(directory) == "overlay" else "overlayfs"
        # restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox starts otherwise.
        return f'''version = 3
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{MACHINE}"
  snapshotter = "{snapshotter}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{self.setting.registry}/test/pause:1"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{directory}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{self._programs / "cni"}"]
  conf_dir = "{directory}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
'''

    def _kubelet_configuration(self, taints: Sequence[Taint]) -> dict[str, object]:
        pki = self.setting.pki
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self.directory / "kubelet.crt"),
            "tlsPrivateKeyFile": str(self.directory / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": NO_EVICTION,
            "imageGCHighThresholdPercent": 100,
            "resolvConf": "",
            "clusterDNS": [CLUSTER_NAME_SERVER],
            "clusterDomain": "cluster.local",
            "podLogsDir": str(self.directory / "pod-logs"),
            "volumePluginDir": str(self.directory / "volume-plugins"),
            "nodeStatusUpdateFrequency": "5s",
            "registerWithTaints": [dict(taint) for taint in taints],
        }

    def _write_certificate(self) -> None:
        """Sign the node's identity, which also is its serving certificate, with the cluster's authority."""
        key, certificate = self.directory / "kubelet.key", self.directory / "kubelet.crt"
        pki = self.setting.pki
        configuration = self.directory / "openssl.cnf"
        configuration.write_text(
            "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n"
            f"[name]\nO = system:nodes\nCN = system:node:{self.name}\n"
            "[extensions]\nextendedKeyUsage = clientAuth,serverAuth\n"
            f"subjectAltName = DNS:{self.name},IP:{self.address}\n"
        )
        options: dict[str, Argument] = {
            "config": configuration,
            "newkey": "ec",
            "pkeyopt": "ec_paramgen_curve:P-256",
            "CA": pki / "ca.crt",
            "CAkey": pki / "ca.key",
            "days": "365",
            "keyout": key,
            "out": certificate,
        }
        words = [word for name, value in options.items() for word in (f"-{name}", value)]
        self.setting.sandbox.run(["openssl", "req", "-x509", "-nodes", *words])
        (self.directory / "kubeconfig").write_text(kubeconfig(self.setting.api, pki / "ca.crt", certificate, key))


CLUSTER_NAME_SERVER = "10.0.0.10"


def kubeconfig(server: str, authority: pathlib.Path, certificate: pathlib.Path, key: pathlib.Path) -> str:
    """A kubeconfig with one cluster, as JSON (which is YAML), with the content of these files."""

    def data(path: pathlib.Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": data(authority)}
    user = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    return json.dumps(configuration, indent=1)


def _file_system(path: pathlib.Path) -> str:
    """Type of the file system that holds the path."""
    best = ("/", "")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        target = re.sub(r"\\040", " ", target)
        if path.is_relative_to(target) and len(target) >= len(best[0]):
            best = (target, kind)
    return best[1]
