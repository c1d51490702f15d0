# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster could leave behind on a machine, as a snapshot that can be compared with a later one."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import subprocess
from collections.abc import Set

from .embedded import COMPONENTS, state_root
from .processes import CGROUPS, PROC, Sandbox, processes
from .tools import cache

# Places that Kubernetes' programs write to when nobody keeps them from it.
PLACES = (
    "/etc/cni",
    "/opt/containerd",
    "/run/cni",
    "/run/containerd",
    "/run/netns",
    "/run/runc",
    "/run/xtables.lock",
    "/usr/libexec/kubernetes",
    "/usr/sbin/policy-rc.d",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
PROGRAMS = {*COMPONENTS, "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "docker-registry", "pause"}


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Names of everything that is there, by kind. Settings carry their value."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    settings: frozenset[str]
    listening: frozenset[str]
    files: frozenset[str]

    def to_json(self) -> str:
        """As text for a file."""
        return json.dumps({kind: sorted(names) for kind, names in dataclasses.asdict(self).items()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """What `to_json` wrote."""
        return cls(**{kind: frozenset(names) for kind, names in json.loads(text).items()})


def take(cluster: str = "") -> Snapshot:
    """How this machine is now. Of processes only those count that a cluster may have started.

    cluster: leave out what belongs to clusters of other names, so that they may come and go; "*" in it stands for
    any part of a name.
    """
    return Snapshot(
        processes=frozenset(_processes(cluster)),
        mounts=frozenset(line.split()[1] for line in (PROC / "mounts").read_text().splitlines()),
        cgroups=frozenset(_cgroups(cluster)),
        interfaces=frozenset(path.name for path in pathlib.Path("/sys/class/net").iterdir()),
        settings=frozenset(_settings()),
        listening=frozenset(_listening(cluster)),
        files=frozenset(_files(cluster)),
    )


def compare(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that is new (+) or gone (-)."""
    differences = []
    for field in dataclasses.fields(Snapshot):
        old, new = getattr(before, field.name), getattr(after, field.name)
        for sign, names in (("+", new - old), ("-", old - new)):
            differences += [f"{sign} {field.name}: {name}" for name in sorted(names) if not _inside(name, names)]
    return differences


def left_by(cluster: str, before: Snapshot, after: Snapshot) -> list[str]:
    """What is new since and sure to be of these clusters, whatever else goes on; both snapshots are of `cluster`."""
    ours = re.compile(rf"\+ (processes|cgroups|listening):|\+ .*image-puller[-/]{_named(cluster)}\b(?!-)")
    return [line for line in compare(before, after) if ours.match(line)]


def _named(cluster: str) -> str:
    """The regular expression for names of clusters."""
    return re.escape(cluster).replace(r"\*", "[a-z0-9-]+")


def _inside(name: str, names: Set[str]) -> bool:
    """Whether a path's parent is listed, too."""
    return name.startswith("/") and str(pathlib.PurePath(name).parent) in names


def _processes(cluster: str) -> list[str]:
    places = [re.escape(f"{state_root()}/"), re.escape(f"{cache()}/tools/")]
    place = re.compile(f"{places[0]}{_named(cluster)}/" if cluster else "|".join(places))
    found = []
    for process in processes():
        arguments = process.arguments()
        ours = any(place.search(f"{argument}/") for argument in arguments)
        if arguments and (ours or (not cluster and pathlib.Path(arguments[0]).name in PROGRAMS)):
            found.append(f"{process.pid} {' '.join(arguments)[:200]}")
    return found


def _cgroups(cluster: str) -> list[str]:
    words = re.compile(f"/image-puller-{_named(cluster)}/" if cluster else "/image-puller-|/kubepods")
    paths = (f"{path}/" for path in CGROUPS.rglob("*") if path.is_dir())
    return [path.rstrip("/") for path in paths if words.search(path)]


def _settings() -> list[str]:
    names = (*Sandbox.KUBELET_SETTINGS, "net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max")
    paths = [PROC / "sys" / name for name in names]
    return [f"{path}={path.read_text().strip()}" for path in paths if path.exists()]


def _listening(cluster: str) -> list[str]:
    listed = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=False).stdout
    ours = {line.split()[0] for line in _processes(cluster)} if cluster else set[str]()
    if cluster and not ours:
        return []
    lines = (line for line in listed.splitlines() if not cluster or ours & set(re.findall(r"pid=(\d+)", line)))
    return [" ".join((fields[0], fields[4])) for line in lines if (fields := line.split())]


def _files(cluster: str) -> list[str]:
    root = state_root()
    named = re.compile(rf"{_named(cluster)}(\.lock)?" if cluster else ".*")
    found = [str(path) for path in root.glob("*") if named.fullmatch(path.name)]
    for place in map(pathlib.Path, PLACES):
        found += [str(place)] if place.exists() else []
        found += [str(path) for path in place.rglob("*")] if place.is_dir() else []
    return found
