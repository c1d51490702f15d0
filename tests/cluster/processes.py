# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that can be ended without ending somebody else's, and a sandbox of namespaces for them.

A process is known by its id and the time it was started, so an id that was given to another process is never
touched. A sandbox has process, network and mount namespaces of its own, held by one process: when that one ends, the
kernel ends all others (pods and their shims included) and with them every mount, bridge and address.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

PROC = pathlib.Path("/proc")
CLONE_NEWNET = 0x40000000
# Go's collector took an eighth of what the API server computed; memory is what a test machine has more of.
COLLECT = "GOGC=200"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
Argument = str | os.PathLike[str]


class ClusterError(Exception):
    """What went wrong with a test cluster, in words for the person who started it."""


@dataclasses.dataclass(frozen=True)
class Process:
    """One process of this machine. started: clock ticks after boot (field 22 of /proc/PID/stat)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now; None if there is none or it is a zombie."""
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, patience: float = 10) -> None:
        """End it: SIGTERM, and SIGKILL after `patience` seconds."""
        for number, limit in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
            self.send(number)
            if wait_until(lambda: not self.alive, limit):
                return
        raise ClusterError(f"process {self.pid} does not end")

    def arguments(self) -> list[str]:
        """Its command line; empty when it is gone."""
        try:
            return (PROC / str(self.pid) / "cmdline").read_text(errors="replace").split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            return []


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Ask again and again for at most `seconds`; whether the condition came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def processes() -> Iterator[Process]:
    """All processes of this machine."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (process := Process.of(int(entry.name))):
            yield process


class Host:
    """Where a cluster's processes run. This one: on the machine as it is, without root."""

    network: pathlib.Path | None = None  # the network namespace, if it is not the machine's own

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        """argv, prefixed so that it runs in all of the place's namespaces."""
        return [os.fspath(argument) for argument in argv]

    def run(self, argv: Sequence[Argument], *, timeout: float = 60) -> str:
        """Run to its end in the place; what it printed. Raises ClusterError."""
        done = subprocess.run(self.inside(argv), capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def start(self, argv: Sequence[Argument], log: pathlib.Path, *, path: Argument = "") -> Process:
        """Start a process that stays, with its output in `log` and `path` before its PATH."""
        clean = ["env", "-i", "HOME=/", "LANG=C.UTF-8", COLLECT, f"PATH={path}:{SYSTEM_PATH}"]
        process = self.find(_detach(self.inside, [*clean, *argv], log))
        if not process:
            raise ClusterError(f"{pathlib.Path(argv[0]).name} ended at once; see {log}")
        return process

    def find(self, pid: int) -> Process | None:
        """The process that has this id as seen from inside."""
        return Process.of(pid)


def _detach(inside: Callable[[Sequence[Argument]], list[str]], argv: Sequence[Argument], log: pathlib.Path) -> int:
    """Start argv in a session of its own, as nobody's child; its process id, as seen inside."""
    script = 'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!'
    command = inside(["sh", "-c", script, log, *argv])
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class Sandbox(Host):
    """Namespaces of its own for a cluster with real nodes; needs root.

    Inside, what is written to /run, /var/log and /var/lib stays there, files stand in for the kernel settings that a
    kubelet sets, names are asked of our own name server, and the network is empty but for what `create` adds.
    """

    HOLDER = "hold-cluster"
    # What a kubelet sets for the whole machine when it starts. Inside, files stand in for these with the values that it
    # wants, so it has nothing to set.
    KUBELET_SETTINGS: ClassVar[dict[str, int]] = {
        "vm/overcommit_memory": 1,
        "vm/panic_on_oom": 0,
        "kernel/panic": 10,
        "kernel/panic_on_oops": 1,
        "kernel/keys/root_maxkeys": 1000000,
        "kernel/keys/root_maxbytes": 25000000,
    }

    def __init__(self, state: pathlib.Path, holder: Process) -> None:
        self.state = state
        self.holder = holder
        self._namespaces = PROC / str(holder.pid) / "ns"
        self.network = self._namespaces / "net"

    @classmethod
    def create(cls, state: pathlib.Path, pause: pathlib.Path, addresses: Sequence[tuple[str, str]]) -> Sandbox:
        """Make the namespaces. addresses: (device, address with prefix length); devices are lo and node."""
        (state / "sandbox.sh").write_text(_setup(state, addresses))
        namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
        # The holder is found by these arguments when whoever started it was killed before noting its id.
        argv: list[Argument] = ["unshare", *namespaces, "sh", "-e", state / "sandbox.sh", cls.HOLDER, state, pause]
        log = state / "sandbox.log"
        process = Process.of(_detach(Host().inside, argv, log))
        ready = state / "sandbox.ready"
        if not (process and wait_until(lambda: ready.exists() or not process.alive, 20, 0.01) and process.alive):
            reason = log.read_text().strip() or "no reason given"
            raise ClusterError(f"the namespaces for nodes could not be made: {reason}")
        return cls(state, process)

    @classmethod
    def left_behind(cls, state: pathlib.Path) -> list[Process]:
        """Holders of this state directory that run, noted or not."""
        return [
            process
            for process in processes()
            if [cls.HOLDER, str(state)] == process.arguments()[-3:-1] and process.arguments()[0] == "unshare"
        ]

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        """See Host."""
        if not self.holder.alive:
            raise ClusterError("the cluster is not running")
        spaces = (("net", "net"), ("mount", "mnt"), ("pid", "pid_for_children"))
        options = [f"--{option}={self._namespaces / name}" for option, name in spaces]
        return ["nsenter", *options, "--", *(os.fspath(argument) for argument in argv)]

    def find(self, pid: int) -> Process | None:
        """See Host."""
        space = (self._namespaces / "pid_for_children").readlink()
        for process in processes():
            try:
                status = (PROC / str(process.pid) / "status").read_text()
                ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                if int(ids[-1]) == pid and (PROC / str(process.pid) / "ns" / "pid").readlink() == space:
                    return process
            except (FileNotFoundError, ProcessLookupError):
                continue
        return None

    def destroy(self) -> None:
        """End every process inside and wait until the kernel has taken everything away."""
        try:
            children = (PROC / str(self.holder.pid) / "task" / str(self.holder.pid) / "children").read_text().split()
        except FileNotFoundError:
            children = []
        first = [process for child in children if (process := Process.of(int(child)))]
        self.holder.send(signal.SIGKILL)
        if not wait_until(lambda: not (self.holder.alive or any(process.alive for process in first)), 30):
            raise ClusterError(f"the sandbox held by process {self.holder.pid} does not end")


def _setup(state: pathlib.Path, addresses: Sequence[tuple[str, str]]) -> str:
    """The shell script that the sandbox's first process runs: files first, then the network, then it waits."""
    resolver = pathlib.Path("/etc/resolv.conf").resolve()
    lines = [
        "mount --make-rshared /",  # pods' volumes may ask for propagation
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mkdir -p {state}/log {state}/settings /run/state /run/upper /run/work",
        f"mount --bind {state}/log /var/log",
        # Network plugins write to a fixed place below /var/lib, which may not even exist.
        f"mount --bind {state} /run/state",
        "mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib",
        f"mount --bind /run/state {state}",
    ]
    for setting, value in Sandbox.KUBELET_SETTINGS.items():
        if (PROC / "sys" / setting).exists():
            copy = state / "settings" / setting.replace("/", ".")
            lines += [f"echo {value} > {copy}", f"mount --bind {copy} /proc/sys/{setting}"]
    if resolver.exists():
        lines += [
            f"mkdir -p {resolver.parent}",
            f"[ -e {resolver} ] || touch {resolver}",
            f"echo 'nameserver 127.0.0.1' > {state}/resolv.conf",
            f"mount --bind {state}/resolv.conf {resolver}",
        ]
    lines += [
        "ip link set lo up",
        "ip link add node type veth peer name uplink",  # not every kernel has dummy devices
        "ip link set node up",
        "ip link set uplink up",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        *(f"ip addr add {address} dev {device}" for device, address in addresses),
        "ip route add default dev node",
        f"touch {state}/sandbox.ready",
        'exec "$3"',
    ]
    return "\n".join(lines) + "\n"


def join_network(network: pathlib.Path) -> None:
    """Move this thread into a network namespace (setns(2); Python has it since 3.12)."""
    with network.open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise ClusterError(f"can't enter the cluster's network: {os.strerror(ctypes.get_errno())}")


# Control groups


def cgroup_hierarchies() -> list[pathlib.Path]:
    """The roots under which a node's cgroups are made: one for cgroup v2, one for each controller for v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink() and path.is_mount()]


def make_cgroup(name: str) -> None:
    """Make the cgroup in every hierarchy, so that the kubelet may make more below it.

    name: path below the root, such as "image-puller-default/node-1". Written for cgroup v1 and v2, run on v1 only; on
    v2 a controller that nobody had enabled at the root stays enabled. Raises ClusterError.
    """
    for root in cgroup_hierarchies():
        path = root
        for part in pathlib.PurePath(name).parts:
            _pass_controllers_down(path)
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty at first in v1, and then no process may enter
                if root != CGROUPS and (path / setting).exists():
                    (path / setting).write_text((parent / setting).read_text())
        _pass_controllers_down(path)


def _pass_controllers_down(path: pathlib.Path) -> None:
    switch = path / "cgroup.subtree_control"
    if path.is_relative_to(CGROUPS / "unified") or not switch.exists():
        return
    for controller in (path / "cgroup.controllers").read_text().split():
        try:
            switch.write_text(f"+{controller}")
        except OSError as error:
            if controller in ("cpu", "cpuset", "memory", "pids"):  # which the kubelet insists on
                raise ClusterError(
                    f"cgroup v2: {controller} can't be enabled in {switch} ({error.strerror}); real nodes need a"
                    " machine, or a privileged container whose processes are not in the root of its cgroup namespace"
                ) from error


def remove_cgroup(name: str) -> None:
    """End what still runs in the cgroup and remove it, with all below it, from every hierarchy."""
    for root in cgroup_hierarchies():
        for directory, _, _ in sorted(os.walk(root / name), reverse=True):
            path = pathlib.Path(directory)
            if not wait_until(functools.partial(_end_cgroup, path), 10):
                raise ClusterError(f"the cgroup {path} stays busy")


def _end_cgroup(path: pathlib.Path) -> bool:
    """Kill what is in the cgroup and remove it; False while it is busy, until the last process has gone for good."""
    for pid in (path / "cgroup.procs").read_text().split():
        if process := Process.of(int(pid)):
            process.send(signal.SIGKILL)
    try:
        path.rmdir()
    except OSError:
        return False
    return True
