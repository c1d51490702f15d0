# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded cluster: Kubernetes' own programs as plain processes of this machine.

With real nodes (as root) everything runs in a sandbox of namespaces; without, on loopback, with nodes that kwok
simulates. The control plane is started by kwokctl.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import MIRRORED, Cluster, ClusterError, Report, images, marker, registry, tools
from .node import CLUSTER_NAME_SERVER, RealNode, Setting, Taint, kubeconfig
from .processes import COLLECT, Host, Process, Sandbox, join_network, processes, remove_cgroup, wait_until

ADDRESS = "10.254.0.1"  # of the API server and the registry in a sandbox
SERVICE_ADDRESS = "10.0.0.1"  # of the Service kubernetes
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller")
# How the control plane's parts call themselves; they all are the same administrator to the API server.
CONTROL_PLANE = ("kube-", "kwok")
_MANY = 500  # Simulated nodes.
# Everything but what the control plane and the nodes do all the time.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "users": ["system:kube-controller-manager", "system:kube-scheduler"]},
        {
            "level": "None",
            "resources": [
                {"group": "", "resources": ["nodes/status", "pods/status"]},
                {"group": "coordination.k8s.io", "resources": ["leases"]},
            ],
        },
        {"level": "Metadata"},
    ],
}


def state_root() -> pathlib.Path:
    """Where clusters keep their state. Short, because sockets below it may have names of 108 characters only."""
    if os.geteuid() == 0:
        return pathlib.Path("/var/lib/kubecache-image-puller")
    base = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state"
    return pathlib.Path(base) / "kubecache-image-puller"


class EmbeddedCluster(Cluster):
    """See Cluster."""

    def __init__(self, name: str, nodes: int, simulated: int, report: Report | None) -> None:
        super().__init__(name, report)
        self._wanted = nodes
        self._simulated = simulated
        self.state = state_root() / name
        self.kubeconfig = self.state / "kubeconfig"
        self._control = self.state / "kwok" / "clusters" / name
        self._noting = threading.Lock()

    # What is known of a running cluster: cluster.json

    def _known(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads((self.state / "cluster.json").read_text())
        except FileNotFoundError:
            return {"processes": {}}
        return known

    def _note(self, **facts: object) -> None:
        """Add facts to what is known; on disk at once, so that whoever cleans up after a crash finds them."""
        temporary = self.state / "cluster.json.new"
        temporary.write_text(json.dumps(self._known() | facts, indent=1))
        temporary.replace(self.state / "cluster.json")

    def _record(self, name: str, process: Process | None) -> None:
        with self._noting:
            noted = self._known()["processes"]
            if process:
                noted[name] = [process.pid, process.started]
            else:
                noted.pop(name, None)
            self._note(processes=noted)

    def _recorded(self, name: str) -> Process | None:
        noted = self._known()["processes"].get(name)
        return Process(*noted) if noted else None

    @property
    def _place(self) -> Host:
        holder = self._recorded("sandbox")
        return Sandbox(self.state, holder) if holder else Host()

    @property
    def network(self) -> pathlib.Path | None:
        """See Cluster."""
        return self._place.network

    @property
    def registry(self) -> str:
        """See Cluster."""
        return str(self._known().get("registry", f"{ADDRESS}:5000"))

    def program_path(self) -> list[str]:
        """See Cluster."""
        return [str(self.state / "bin")]

    def _program(self, name: str) -> pathlib.Path:
        return self.state / "bin" / name

    # Life

    @property
    def is_up(self) -> bool:
        """See Cluster."""
        return bool(self._known().get("ready")) and self._api_ready()

    def up(self) -> None:
        """See Cluster."""
        if self._wanted and os.geteuid() != 0:
            raise ClusterError("real nodes need root: run as root, or take simulated nodes only (--nodes 0)")
        with self._alone():
            if self.is_up:
                if len(self.nodes) != self._wanted:
                    raise ClusterError(f"cluster {self.name} is up with other nodes ({self.nodes}); take it down first")
                self.report(f"cluster {self.name} is up already")
                return
            programs = tools.ensure(nodes=self._wanted > 0, report=self.report)
            self._clean_up()
            started = time.monotonic()
            try:
                self._create(programs)
            except BaseException:
                self._end_processes()
                self.report(f"the logs are in {self.state}")
                raise
            self._note(ready=True)
            self.report(f"cluster {self.name} is up after {time.monotonic() - started:.1f} s")

    def down(self) -> None:
        """See Cluster."""
        with self._alone():
            if self._clean_up():
                self.report(f"cluster {self.name} is down")
            else:
                self.report(f"there is no cluster {self.name}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off others who would start or end a cluster of this name; the last one out leaves no directory."""
        root = state_root()
        lock = root / f"{self.name}.lock"
        with contextlib.ExitStack() as stack:
            while True:
                root.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # whoever held the lock took it away
                    handle = stack.enter_context(lock.open("w"))
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    if os.path.sameopenfile(handle.fileno(), stack.enter_context(lock.open()).fileno()):
                        break
            try:
                yield
            finally:
                if not self.state.exists():
                    lock.unlink()
                    with contextlib.suppress(OSError):
                        root.rmdir()

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.report(f"{title}: {time.monotonic() - started:.1f} s")

    def _create(self, programs: Mapping[str, pathlib.Path]) -> None:
        self.state.mkdir()
        self.state.chmod(0o711)  # what the kubelet makes below is readable, keys are not
        (self.state / "log").mkdir()
        self._note(processes={})
        (self.state / "bin").mkdir()
        for name, path in programs.items():
            self._program(name).symlink_to(path)
        if self._wanted:
            with self._step("sandbox"):
                self._make_sandbox()
        ports = (6443, 5000, 5001) if self._wanted else _free_ports(3)
        host = ADDRESS if self._wanted else "127.0.0.1"
        self._note(api=f"{host}:{ports[0]}", registry=f"{host}:{ports[1]}", backend=f"127.0.0.1:{ports[2]}", nodes=[])
        numbers = range(1, self._wanted + 1)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            control = pool.submit(self._start_control_plane)
            jobs = [pool.submit(self._start_registry)]
            jobs += [pool.submit(self._start_node, number, control) for number in numbers]
            jobs += [pool.submit(self._start_proxy, control)] if self._wanted else []
            for job in (control, *jobs):
                job.result()
        self._note(nodes=[f"node-{number}" for number in numbers])
        with self._step("nodes Ready") if self._wanted else contextlib.nullcontext():
            self._await_ready()
        if self._simulated:
            with self._step(f"{self._simulated} simulated nodes"):
                self.simulate(self._simulated)

    def _make_sandbox(self) -> None:
        addresses = [("node", f"{ADDRESS}/24"), ("lo", f"{SERVICE_ADDRESS}/32")]
        servers = (server for server in _name_servers() if not server.startswith("127."))
        addresses += [("lo", f"{server}/{128 if ':' in server else 32}") for server in servers]
        sandbox = Sandbox.create(self.state, self._program("pause"), addresses)
        self._record("sandbox", sandbox.holder)

    def _clean_up(self) -> bool:
        """Take away a cluster of this name, whole or half; whether there was anything."""
        found = self.state.exists()
        self._end_processes()
        if found:
            shutil.rmtree(self.state)
        return found

    def _end_processes(self) -> None:
        """End all processes by their recorded ids, and those that a crash left unrecorded by their arguments."""
        known = {name: Process(*noted) for name, noted in self._known()["processes"].items()}
        holders = Sandbox.left_behind(self.state)
        if (noted := known.pop("sandbox", None)) and noted.alive and noted not in holders:
            holders.append(noted)
        for holder in holders:
            Sandbox(self.state, holder).destroy()
        strays = [process for process in processes() if self._is_ours(process)]
        for process in {*known.values(), *strays}:
            process.stop(0)
        if os.geteuid() == 0:  # another user's cluster of this name has no cgroups, and is not this one
            remove_cgroup(f"image-puller-{self.name}")

    def _is_ours(self, process: Process) -> bool:
        arguments = process.arguments()
        programs = {*COMPONENTS, "kwokctl", "docker-registry", pathlib.Path(registry.__file__).name}
        named = {pathlib.Path(argument).name for argument in arguments[:2]}
        return bool(programs & named) and any(f"{self.state}/" in argument for argument in arguments)

    # Parts

    def _start_control_plane(self) -> None:
        with self._step("control plane"):
            configuration = self.state / "kwokctl.json"
            configuration.write_text(json.dumps(self._kwokctl_configuration()))
            (self.state / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
            self._kwokctl("create", "cluster", "--config", str(configuration), "--kubeconfig", "", "--wait", "0s")
            pki = self._control / "pki"
            server = f"https://{self._known()['api']}"
            self.kubeconfig.touch(0o600)
            self.kubeconfig.write_text(kubeconfig(server, pki / "ca.crt", pki / "admin.crt", pki / "admin.key"))
            self._record_components()

    def _record_components(self) -> None:
        for name in COMPONENTS:
            pid = int((self._control / "pids" / f"{name}.pid").read_text())
            self._record(name, self._place.find(pid) or Process(pid, 0))  # 0: it has ended already

    def _kwokctl(self, *arguments: str, timeout: float = 180) -> None:
        path = f"{self.state / 'bin'}:{os.environ.get('PATH', '')}"
        clean = ["env", "-i", f"HOME={self.state}", f"PATH={path}", COLLECT, f"KWOK_WORKDIR={self.state / 'kwok'}"]
        self._place.run([*clean, self._program("kwokctl"), "--name", self.name, *arguments], timeout=timeout)

    def _kwokctl_configuration(self) -> dict[str, object]:
        binaries = {
            "etcdBinary": "etcd",
            "kubeApiserverBinary": "kube-apiserver",
            "kubeControllerManagerBinary": "kube-controller-manager",
            "kubeSchedulerBinary": "kube-scheduler",
            "kwokControllerBinary": "kwok",
            "kubectlBinary": "kubectl",
        }
        pki = self._control / "pki"
        apiserver = {"audit-log-maxsize": "10000"}
        if self._wanted:
            apiserver |= {
                "advertise-address": ADDRESS,
                "kubelet-preferred-address-types": "InternalIP",
                "kubelet-client-certificate": str(pki / "admin.crt"),
                "kubelet-client-key": str(pki / "admin.key"),
                "enable-admission-plugins": "NodeRestriction",
            }
        # There is one of each; a lease that was lost while the API server was away would end it.
        manager = {"leader-elect": "false"}
        if self._wanted and not self._simulated:  # what kwokctl changes for thousands of simulated nodes
            manager |= {"node-monitor-period": "5s", "node-monitor-grace-period": "40s"}
            apiserver |= {"enable-priority-and-fairness": "true"}
            apiserver |= {"max-requests-inflight": "400", "max-mutating-requests-inflight": "200"}
        simulator = {
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": "kwok.x-k8s.io/node=fake",
            "disregard-status-with-annotation-selector": "kwok.x-k8s.io/status=custom",
        }
        if self._simulated > _MANY:  # On a small machine their heartbeats come late, and they would not be ready.
            manager |= {"node-monitor-grace-period": "1h"}
            simulator |= {"node-lease-duration-seconds": "1200"}
        patches = {
            "kube-apiserver": apiserver,
            "etcd": {"unsafe-no-fsync": "true"},
            "kube-controller-manager": manager,
            "kube-scheduler": {"leader-elect": "false"},
            "kwok-controller": simulator,
        }
        return {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokctlConfiguration",
            "options": {
                "runtime": "binary",
                **{option: str(self._program(name)) for option, name in binaries.items()},
                "kubeApiserverPort": int(self._known()["api"].rpartition(":")[2]),
                "kubeAuditPolicy": str(self.state / "audit-policy.json"),
                "disableQPSLimits": True,
                # In a sandbox all addresses are the cluster's own.
                "bindAddress": "0.0.0.0" if self._wanted else "127.0.0.1",
            },
            "componentsPatches": [
                {
                    "name": component,
                    "extraArgs": [{"key": key, "value": value} for key, value in arguments.items()],
                }
                for component, arguments in patches.items()
            ],
        }

    def _start_registry(self) -> None:
        with self._step("registry"):
            known = self._known()
            configuration = {
                "version": "0.1",
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(self.state / "registry")}, "delete": {"enabled": True}},
                "http": {"addr": known["backend"], "relativeurls": True},
            }
            (self.state / "registry.yml").write_text(json.dumps(configuration))
            front = {
                "listen": known["registry"],
                "backend": known["backend"],
                "faults": str(self.state / "faults.json"),
                "log": str(self.state / "requests.log"),
                "name_servers": _name_servers() if self._wanted else [],
                "names": {f"kubernetes.default.svc{suffix}": SERVICE_ADDRESS for suffix in ("", ".cluster.local")},
            }
            (self.state / "front.json").write_text(json.dumps(front))
            (self.state / "requests.log").touch()
            self.registry_clear()
            self._run("registry", [self._program("docker-registry"), "serve", self.state / "registry.yml"])
            self.registry_start()
            if not wait_until(lambda: self._answers(known["backend"]), 20):
                raise ClusterError(f"the registry is not ready; see {self.state / 'log' / 'registry.log'}")
            if self._wanted:
                self.push("test/pause:1")
                self.push_busybox()

    def _start_node(
        self,
        number: int,
        control: concurrent.futures.Future[None] | None = None,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Taint] = (),
        image_disk_mb: int = 0,
    ) -> None:
        node = self.node(f"node-{number}")
        node.start_runtime(image_disk_mb)
        if control:
            control.result()
        node.start_kubelet(labels, taints, image_disk_mb)

    def _start_proxy(self, control: concurrent.futures.Future[None]) -> None:
        """kube-proxy: makes Services' addresses lead to pods, and the API's to the API server."""
        control.result()
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self.kubeconfig)},
            "hostnameOverride": "node-1",
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0},  # the machine's own setting stays
        }
        path = self.state / "kube-proxy.json"
        path.write_text(json.dumps(configuration))
        self._run("kube-proxy", [self._program("kube-proxy"), f"--config={path}"])

    def _run(self, name: str, argv: Sequence[str | pathlib.Path]) -> None:
        log = self.state / "log" / f"{name}.log"
        self._record(name, self._place.start(argv, log, path=self.state / "bin"))

    def _await_ready(self) -> None:
        def account() -> bool:
            return self._get("/api/v1/namespaces/default/serviceaccounts/default") is not None

        self._await(account, "the ServiceAccount default does not appear")
        self._await(lambda: set(self.nodes) <= set(self._ready_nodes()), "nodes are not Ready")
        if self._wanted:
            self._await(lambda: self._answers(f"{SERVICE_ADDRESS}:443"), "the Service kubernetes does not answer")

    def _await(self, condition: Callable[[], bool], complaint: str, seconds: float = 60) -> None:
        """Wait for something of the cluster as long as all its processes run."""
        revived: set[str] = set()

        def decided() -> bool:
            noted = self._known()["processes"]
            dead = {name for name, process in noted.items() if not Process(*process).alive}
            kubelets = {name for name in dead if name.endswith("/kubelet")}
            if lost := dead & revived or dead - kubelets - set(COMPONENTS):
                raise ClusterError(f"{', '.join(lost)} ended while starting; see {self.state}")
            revived.update(dead)
            for name in kubelets:  # two that start at once each clear away the one socket for devices, and then make it
                self.node(name.partition("/")[0]).start()
            if dead - kubelets:  # on a busy machine some give up before the API server answers
                self._kwokctl("start", "cluster")
                self._record_components()
            return condition()

        if not wait_until(decided, seconds, 0.2):
            raise ClusterError(f"{complaint} within {seconds:.0f} s; see {self.state / 'log'}")

    # Asking

    def _connect(self, address: str, timeout: float = 60) -> socket.socket:
        """A TCP connection to an address in the cluster's network, made by a thread that visits it."""
        host, _, port = address.rpartition(":")
        network = self.network

        def connect() -> socket.socket:
            if network:
                join_network(network)
            return socket.create_connection((host, int(port)), timeout)

        with concurrent.futures.ThreadPoolExecutor(1) as visitor:
            return visitor.submit(connect).result()

    def _answers(self, address: str) -> bool:
        try:
            self._connect(address, 2).close()
        except OSError:
            return False
        return True

    def connect_registry(self) -> http.client.HTTPConnection:
        """See Cluster. It goes behind the front, so that misbehaviour doesn't touch pushes."""
        backend = self._known()["backend"]
        connection = http.client.HTTPConnection(backend)
        connection.sock = self._connect(backend)
        return connection

    def _get(self, path: str) -> dict[str, Any] | None:
        """GET from the API server as administrator; None if it does not answer with success."""
        pki = self._control / "pki"
        try:
            context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
            context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
            api = self._known()["api"]
            connection = http.client.HTTPSConnection(api, context=context)
            raw = self._connect(api, 5)
            connection.sock = context.wrap_socket(raw, server_hostname=api.rpartition(":")[0])
            with contextlib.closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                body = response.read()
        except (OSError, KeyError, ClusterError):
            return None
        if response.status != 200:
            return None
        answer = json.loads(body) if body.startswith(b"{") else {}
        return dict(answer)

    def _api_ready(self) -> bool:
        return self._get("/readyz") is not None

    def _ready_nodes(self, selector: str = "") -> list[str]:
        listed = self._get(f"/api/v1/nodes?labelSelector={selector}") or {"items": []}
        return [
            node["metadata"]["name"]
            for node in listed["items"]
            if any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in node["status"].get("conditions", [])
            )
        ]

    # Nodes

    @property
    def nodes(self) -> list[str]:
        """See Cluster."""
        return list(self._known().get("nodes", []))

    def node(self, name: str) -> RealNode:
        """See Cluster."""
        place = self._place
        if not isinstance(place, Sandbox):
            raise ClusterError(f"cluster {self.name} has no real nodes")
        api = f"https://{self._known()['api']}"
        setting = Setting(
            self.name,
            self.state,
            place,
            self.registry,
            MIRRORED,
            api,
            self._control / "pki",
            self._record,
            self._recorded,
        )
        return RealNode(setting, int(name.removeprefix("node-")))

    def add_node(
        self, labels: Mapping[str, str] | None = None, taints: Sequence[Taint] = (), *, image_disk_mb: int = 0
    ) -> str:
        """See Cluster."""
        number = max(int(name.removeprefix("node-")) for name in self.nodes) + 1
        name = f"node-{number}"
        self._start_node(number, None, labels, taints, image_disk_mb)
        self._note(nodes=[*self.nodes, name])
        self._await(lambda: name in self._ready_nodes(), f"{name} is not Ready")
        return name

    def remove_node(self, name: str) -> None:
        """See Cluster."""
        self._note(nodes=[other for other in self.nodes if other != name])
        self.node(name).destroy()
        self.kubectl("delete", "node", name, "--wait=true")
        self.kubectl("delete", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}", "--force")

    def simulate(self, count: int) -> None:
        """See Cluster."""
        scale = ("scale", "node", "sim", "--replicas", str(count), "--serial-length", "1")
        self._kwokctl(*scale, timeout=180 + count / 5)

        def done() -> bool:
            return len(self._ready_nodes("kwok.x-k8s.io/kwokctl-scale=sim")) == count

        if not wait_until(done, 60 + count / 10, 0.5):
            raise ClusterError(f"{count} simulated nodes are not there in time; see {self._control / 'logs'}")

    # Registry

    def registry_fault(self, repo_prefix: str, kind: str, **options: Any) -> None:
        """See Cluster."""
        if registry.KINDS.get(kind) != set(options):
            known = ", ".join(f"{name}({', '.join(sorted(names))})" for name, names in registry.KINDS.items())
            raise ClusterError(f"no fault {kind}({', '.join(options)}); there are {known}")
        fault = {"prefix": images.without_registry(repo_prefix), "kind": kind, **options}
        self._set_faults([*json.loads((self.state / "faults.json").read_text()), fault])

    def registry_clear(self) -> None:
        """See Cluster."""
        self._set_faults([])

    def _set_faults(self, faults: list[dict[str, Any]]) -> None:
        temporary = self.state / "faults.json.new"
        temporary.write_text(json.dumps(faults))
        temporary.replace(self.state / "faults.json")

    def registry_requests(self, since: float = 0) -> list[dict[str, Any]]:
        """See Cluster."""
        entries = map(json.loads, (self.state / "requests.log").read_text().splitlines())
        return [entry for entry in entries if entry["time"] >= since]

    def registry_stop(self) -> None:
        """See Cluster."""
        if process := self._recorded("registry-front"):
            process.stop()
            self._record("registry-front", None)

    def registry_start(self) -> None:
        """See Cluster."""
        if (process := self._recorded("registry-front")) and process.alive:
            return
        self._run("registry-front", [sys.executable, pathlib.Path(registry.__file__), self.state / "front.json"])
        if not wait_until(lambda: self._answers(self.registry), 10):
            raise ClusterError(f"the registry does not listen; see {self.state / 'log' / 'registry-front.log'}")

    def spoil_blob(self, digest: str) -> None:
        """See Cluster."""
        name = digest.removeprefix("sha256:")
        path = self.state / "registry/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        path.write_bytes(b"x" * path.stat().st_size)

    # API server and its companions

    def audit_mark(self) -> int:
        """See Cluster."""
        return (self._control / "logs" / "audit.log").stat().st_size

    def audit(self, since: int = 0, *, everything: bool = False) -> list[dict[str, Any]]:
        """See Cluster."""
        log = self._control / "logs" / "audit.log"
        word = marker()
        self._get(f"/version?{word}")  # once it is in the log, everything before it is, too

        def entries() -> list[bytes]:
            with log.open("rb") as file:
                file.seek(since)
                return file.read().splitlines()

        if not wait_until(lambda: any(word.encode() in line for line in entries()), 5):
            raise ClusterError("the API server does not write its audit log")
        found = [_entry(json.loads(line)) for line in entries() if word.encode() not in line]
        return [entry for entry in found if everything or not entry["userAgent"].startswith(CONTROL_PLANE)]

    def component_stop(self, name: str) -> None:
        """See Cluster."""
        process = self._component(name)
        if process and (arguments := process.arguments()):
            (self.state / f"{name}.arguments.json").write_text(json.dumps(arguments))
            self._record(name, None)
            process.stop(3)

    def component_start(self, name: str) -> None:
        """See Cluster."""
        process = self._component(name)
        if not (process and process.alive):
            self._run(name, json.loads((self.state / f"{name}.arguments.json").read_text()))
        if name in ("etcd", "kube-apiserver") and not wait_until(self._api_ready, 60, 0.2):
            raise ClusterError(f"the API server does not answer within 60 s after {name} was started")

    def forget_history(self) -> None:
        """See Cluster."""
        etcd = self._component("etcd")
        urls = [word for word in etcd.arguments() if word.startswith("--listen-client-urls=")] if etcd else []
        if not urls:
            raise ClusterError("etcd does not run")
        base = urls[0].partition("=")[2].split(",")[0].replace("0.0.0.0", "127.0.0.1")

        def ask(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
            told = self.run(
                ["curl", "-sS", "--fail", "--max-time", "30", f"{base}/v3/kv/{path}", "-d", json.dumps(body)]
            )
            answer: dict[str, Any] = json.loads(told.stdout)
            return answer

        self.component_stop("kube-apiserver")  # it keeps a history of its own in memory
        revision = ask("range", {"key": "AA==", "limit": "1"})["header"]["revision"]
        ask("compaction", {"revision": revision, "physical": True})
        self.component_start("kube-apiserver")

    @contextlib.contextmanager
    def cut_off(self, address: str) -> Iterator[None]:
        """See Cluster."""
        port = self._known()["api"].rpartition(":")[2]
        rules = (
            ["INPUT", "-s", address, "-p", "tcp", "--dport", port, "-j", "DROP"],
            ["OUTPUT", "-d", address, "-p", "tcp", "--sport", port, "-j", "DROP"],
        )
        for rule in rules:
            self._place.run(["iptables", "-w", "-I", *rule])
        try:
            yield
        finally:
            for rule in rules:
                self._place.run(["iptables", "-w", "-D", *rule])

    def _component(self, name: str) -> Process | None:
        if name not in COMPONENTS:
            raise ClusterError(f"no component {name}; there are {', '.join(COMPONENTS)}")
        return self._recorded(name)


def _entry(event: Mapping[str, Any]) -> dict[str, Any]:
    target = event.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
    return {
        "user": event["user"]["username"],
        "verb": event["verb"],
        "resource": resource,
        "namespace": target.get("namespace", ""),
        "name": target.get("name", ""),
        "userAgent": event.get("userAgent", ""),
        "code": event.get("responseStatus", {}).get("code", 0),
        "uri": event["requestURI"],
    }


def _name_servers() -> list[str]:
    """Addresses at which our name server answers: its own two and, for commands that join the cluster's network but
    see the machine's files, those of the machine's name servers."""
    try:
        lines = pathlib.Path("/etc/resolv.conf").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    machine = {line.split()[1].partition("%")[0] for line in lines if line.startswith("nameserver ")}
    return sorted({"127.0.0.1", CLUSTER_NAME_SERVER, *machine})


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]
