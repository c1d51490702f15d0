# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare everything that the checks need, once: `make setup`.

Picks a Python, builds a virtual environment from tests/requirements.txt in the cache, unpacks kubernetes.core and other
versions of ansible-core beside it, and links them into build/. What is up to date is left alone, so a second run only
looks. With --matrix the environments of `make test-matrix` are made in the same way.

Runs with the standard library of any Python >= 3.9, because it is what finds the Python for the rest.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = CHECKOUT / "build"
LOCK = CHECKOUT / "tests" / "requirements.txt"
PLATFORM_LOCK = CHECKOUT / "tests" / "requirements-platform.txt"
DOCS_LOCK = CHECKOUT / "tests" / "requirements-docs.txt"
KUBERNETES_CORE_LOCK = CHECKOUT / "tests" / "requirements-kubernetes-core.txt"
CORE_LOCKS = {version: CHECKOUT / "tests" / f"requirements-ansible-core-{version}.txt" for version in ("2.19", "2.20")}
VERSIONS = ((3, 12), (3, 13), (3, 14), (3, 11))  # in the order of preference
OLDEST_LOCK = CHECKOUT / "tests" / "requirements-oldest.txt"
KUBERNETES_CORE_6_2_LOCK = CHECKOUT / "tests" / "requirements-kubernetes-core-6.2.txt"
# In a virtual environment, the interpreter below it: environments are made from that one.
PROBE = """
import importlib.util, json, sys
executable = getattr(sys, "_base_executable", sys.executable)
has_ensurepip = importlib.util.find_spec("ensurepip") is not None
print(json.dumps([executable, sys.base_prefix, sys.version_info[:3], has_ensurepip]))
"""


class Python(NamedTuple):
    """An interpreter that runs: its path, where it is installed, its version, whether it can make environments."""

    path: str
    prefix: str
    version: tuple[int, ...]
    has_ensurepip: bool

    @property
    def dotted(self) -> str:
        return ".".join(map(str, self.version))

    def __str__(self) -> str:
        return f"Python {self.dotted} ({self.path})"


class Environment(NamedTuple):
    """An environment of the matrix: its packages, its kubernetes.core, and the Pythons for it, the preferred first."""

    lock: Path
    kubernetes_core_lock: Path
    versions: tuple[tuple[int, int], ...]


MATRIX = {
    "oldest": Environment(OLDEST_LOCK, KUBERNETES_CORE_6_2_LOCK, ((3, 10),)),
    "python-3.11": Environment(LOCK, KUBERNETES_CORE_LOCK, ((3, 11),)),
    "newest": Environment(LOCK, KUBERNETES_CORE_LOCK, ((3, 12), (3, 13), (3, 14))),
}


def fail(sentence: str) -> NoReturn:
    sys.exit(f"setup: {sentence}")


def cache_directory() -> Path:
    """The cache that every checkout of one user shares."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("IMAGE_PULLER_CACHE") or Path(base, "kubecache-image-puller"))


def probe(command: str) -> Python | None:
    """Ask an interpreter what it is; None if it is none (a version manager's shim may exist and not run)."""
    try:
        answer = subprocess.run([command, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
        path, prefix, version, has_ensurepip = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Python(path, prefix, tuple(version), has_ensurepip)


def candidates(versions: tuple[tuple[int, int], ...]) -> Iterator[Python]:
    """Interpreters of this machine in these versions, the first version first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    commands = []
    for major, minor in versions:
        commands += [f"python{major}.{minor}", *sorted(map(str, pyenv.glob(f"{major}.{minor}.*/bin/python")))]
    for command in [*commands, "python3"]:
        if (python := probe(command)) and python.version[:2] in versions:
            yield python


def choose_python(wanted: str) -> Python:
    """The interpreter that was asked for (a version as 3.11, a command or a path), else the preferred one."""
    supported = listed(VERSIONS)
    if wanted and not wanted[0].isdigit():
        python = probe(wanted)
        if not python:
            fail(f"PYTHON={wanted} is no Python that runs here.")
        if python.version[:2] not in VERSIONS:
            fail(f"PYTHON={wanted} is {python}; the checks run with one of {supported}.")
        return python
    prefix = f"{wanted}." if wanted else ""
    python = first_of(python for python in candidates(VERSIONS) if f"{python.dotted}.".startswith(prefix))
    if not python:
        fail(f"no Python {wanted or supported} runs here: install one, or name its path with PYTHON=.")
    return python


def first_of(pythons: Iterator[Python]) -> Python | None:
    """The first one that can make virtual environments as it is, else the first one."""
    usable = []
    for python in pythons:
        if python.has_ensurepip:
            return python
        usable.append(python)
    return usable[0] if usable else None


def choose_matrix_python(name: str, main: Python) -> Python:
    """The interpreter for an environment of the matrix: the checks' own one where it will do."""
    versions = MATRIX[name].versions
    if main.version[:2] in versions:
        return main
    python = first_of(candidates(versions))
    if not python:
        fail(f"no Python {listed(versions)} runs here, for the environment {name!r} of the matrix: install one.")
    return python


def listed(versions: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{major}.{minor}" for major, minor in sorted(versions))


def install_venv_module(python: Python) -> None:
    """Debian keeps ensurepip in a package of its own."""
    package = "python{}.{}-venv".format(*python.version)
    if os.geteuid() or not shutil.which("apt-get"):
        fail(f"{python} cannot make virtual environments: install its venv module (on Debian the package {package}).")
    print(f"Installing the package {package} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for action in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        patiently = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
        run(["apt-get", "-qq", *patiently, *action], f"apt-get {action[0]}", environment)


def run(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    """Run a quiet command; show its output only when it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"{what} failed with exit status {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")


@contextmanager
def step(target: Path, what: str) -> Iterator[None]:
    """Say what is being made, clear away what an interrupted run left, and mark the target complete at the end."""
    started = time.monotonic()
    print(f"{what} ...", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield
    marker(target).touch()
    print(f"{what}: done in {time.monotonic() - started:.0f} s", flush=True)


def marker(target: Path) -> Path:
    return target / ".complete"


def key(lock: Path, python: Python) -> str:
    """Changes whenever what is made from the lock file with this interpreter would differ."""
    return hashlib.sha256(lock.read_bytes() + f"{python.prefix} {python.dotted}".encode()).hexdigest()[:12]


def virtual_environment(python: Python, cache: Path, lock: Path = LOCK) -> Path:
    """The environment with the locked packages."""
    target = cache / f"venv-{python.dotted}-{key(lock, python)}"
    if not marker(target).exists():
        if not python.has_ensurepip:
            install_venv_module(python)
        with step(target, f"Installing the packages of {lock.relative_to(CHECKOUT)}"):
            run([python.path, "-m", "venv", str(target)], "making the virtual environment")
            run([*pip(target), "install", "--require-hashes", "-r", str(lock)], "pip install")
    return target


def kubernetes_core(python: Python, venv: Path, cache: Path, lock: Path = KUBERNETES_CORE_LOCK) -> Path:
    """The directory of the collection kubernetes.core, from the wheel that carries it."""
    target = cache / f"kubernetes-core-{key(lock, python)}"
    inside = "ansible_collections/kubernetes/core/"
    if not marker(target).exists():
        with step(target, "Unpacking the collection kubernetes.core"), tempfile.TemporaryDirectory() as downloads:
            # The wheel is not installed, so that it may want a newer Python than the collection in it.
            what = ["--no-deps", "--ignore-requires-python", "--require-hashes", "-r", str(lock)]
            run([*pip(venv), "download", "--dest", downloads, *what], "pip download")
            (wheel,) = Path(downloads).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target, [name for name in archive.namelist() if name.startswith(inside)])
    return target / inside


def ansible_core(version: str, python: Python, venv: Path, cache: Path) -> Path:
    """A directory with another ansible-core, which the packages of the virtual environment serve, too."""
    lock = CORE_LOCKS[version]
    target = cache / f"ansible-core-{version}-{key(lock, python)}"
    if not marker(target).exists():
        with step(target, f"Installing ansible-core {version}"):
            into = ["--target", str(target), "--no-deps", "--require-hashes", "-r", str(lock)]
            run([*pip(venv), "install", *into], "pip install")
    return target


def pip(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]


def link(name: str, target: Path) -> None:
    """Make build/NAME a link to the target, in one step, so that a process that looks meanwhile sees the old or new."""
    path = BUILD / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.resolve() == target.resolve():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(path)


def prepare_matrix(main: Python, cache: Path) -> dict[str, Path]:
    """Make the environments of the matrix; what build/ has of them: name of the link -> target."""
    links = {}
    for name, environment in MATRIX.items():
        python = choose_matrix_python(name, main)
        venv = virtual_environment(python, cache, environment.lock)
        collections = f"matrix/{name}/collections/ansible_collections"
        links[f"matrix/{name}/venv"] = venv
        links[f"{collections}/kubernetes/core"] = kubernetes_core(python, venv, cache, environment.kubernetes_core_lock)
        links[f"{collections}/kubecache/image_puller"] = CHECKOUT
    return links


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the environment of the checks.")
    parser.add_argument("--python", default="", help="a version as 3.11, a command or a path; else the first found")
    parser.add_argument("--platform", action="store_true", help="also the tools of the platforms that run Ansible")
    parser.add_argument("--docs", action="store_true", help="also what builds the documentation")
    parser.add_argument("--matrix", action="store_true", help="also the oldest and newest of what is supported")
    options = parser.parse_args()
    python = choose_python(options.python)
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be filling the same cache
        venv = virtual_environment(python, cache)
        collection = kubernetes_core(python, venv, cache)
        cores = {version: ansible_core(version, python, venv, cache) for version in CORE_LOCKS}
        if options.platform:
            link("platform", virtual_environment(python, cache, PLATFORM_LOCK))
        if options.docs:
            link("docs-tools", virtual_environment(python, cache, DOCS_LOCK))
        matrix = prepare_matrix(python, cache) if options.matrix else {}
    link("venv", venv)
    for version, core in cores.items():
        link(f"ansible-core/{version}", core)
    for name, target in matrix.items():
        link(name, target)
    link("collections/ansible_collections/kubernetes/core", collection)
    link("collections/ansible_collections/kubecache/image_puller", CHECKOUT)
    print(f"Using {python}, environment {venv}")


if __name__ == "__main__":
    main()
