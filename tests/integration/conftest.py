# SPDX-License-Identifier: GPL-3.0-or-later
"""One real cluster for the tests of a worker, and the ways in which users reach it: playbooks, modules, kubectl."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pytest

from tests import matrix
from tests.cluster import Cluster, of_this_checkout, open_cluster
from tests.running import ROOT, WRITES, ansible_environment, module_arguments, push_built_images
from tests.setup import MATRIX

DEPLOYMENT = "kubernetes-image-puller"
DAEMONSET = "kubernetes-image-puller"
CONFIG_MAP = "k8s-image-puller"
MODULES = "ansible_collections.kubecache.image_puller.plugins.modules"


@dataclass(frozen=True)
class Run:
    """An ansible-playbook that has ended."""

    rc: int
    stdout: str

    @property
    def changed(self) -> int:
        """The number of changed tasks in the recap."""
        (count,) = re.findall(r"^localhost .* changed=(\d+)", self.stdout, re.MULTILINE)
        return int(count)


class Playbook(Protocol):
    """Run ``kubecache.image_puller.<name>``; ``variables`` without their prefix ``image_puller_``.

    core: the ansible-core to do it with, "2.19"; "": that of the environment; "oldest": an environment of the matrix.
    """

    def __call__(self, name: str, *arguments: str, ok: bool = True, core: str = "", **variables: Any) -> Run: ...


class Module(Protocol):
    """Run one module, ``install`` for ``image_puller_install``, and return its result."""

    def __call__(self, name: str, *, ok: bool = True, check: bool = False, **options: Any) -> dict[str, Any]: ...


class Install(Protocol):
    """Install with these options, and wait until the images are cached."""

    def __call__(
        self, images: Any, *, wait: bool = True, min_nodes: int = 1, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]: ...


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the tests of a file are steps, those that are chosen need the others.

    The last files take longest and go first, so that no worker has only one of them left at the end.
    """
    items.sort(key=lambda item: item.path, reverse=True)
    if config.option.markexpr == "thorough":
        for item in items:
            if isinstance(item, pytest.Function) and getattr(item.module, "STEPS", False):
                item.add_marker("thorough")


@pytest.fixture(scope="session")
def cluster(worker_id: str) -> Iterator[Cluster]:
    """The cluster, up, with our two images in its registry, and this process in its network.

    Tests spend most of their time waiting, so workers run side by side, each with a cluster of its own.
    """
    name = of_this_checkout(f"test-{worker_id}")
    made = open_cluster(name, nodes=2, report=lambda text: print(text, file=sys.stderr, flush=True))
    try:
        made.up()
        made.enter()
        push_built_images(made)
        yield made
    finally:
        if not os.environ.get("KEEP"):
            made.down()


@contextlib.contextmanager
def new_namespace(cluster: Cluster) -> Iterator[str]:
    """A name that no namespace has; whatever is made there is gone afterwards."""
    name = f"cache-{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false", check=False)
        cluster.kubectl("delete", "clusterrolebinding", f"kubecache-image-puller-nodes-{name}", "--ignore-not-found")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, see `new_namespace`."""
    with new_namespace(cluster) as name:
        yield name


@pytest.fixture(params=["", *(pytest.param(each, marks=pytest.mark.thorough) for each in ("2.20", "2.19"))])
def core(request: pytest.FixtureRequest) -> str:
    """Each ansible-core that shows what it runs in its own way; "" is that of the environment."""
    version: str = request.param
    if version and not any((ROOT / "build" / "ansible-core" / version).glob("ansible")):
        pytest.skip(f"ansible-core {version} does not run on this Python")
    return version


@pytest.fixture
def playbook(cluster: Cluster, namespace: str) -> Playbook:
    """Run a playbook of the collection in this test's namespace."""

    def run(name: str, *arguments: str, ok: bool = True, core: str = "", **variables: Any) -> Run:
        prefixed = {f"image_puller_{key}": value for key, value in {"namespace": namespace, **variables}.items()}
        program, environment = ["ansible-playbook"], ansible_environment(cluster)
        if core in MATRIX:
            environment |= matrix.variables(core, environment)
        elif core:
            program = [sys.executable, "-m", "ansible", "playbook"]
            environment["PYTHONPATH"] = str(ROOT / "build" / "ansible-core" / core)
        command = [*program, f"kubecache.image_puller.{name}", *arguments, "-e", json.dumps(prefixed)]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return Run(done.returncode, done.stdout)

    return run


def modules_of(cluster: Cluster, namespace: str) -> Module:
    """The collection's modules, whole, in this process, for one namespace."""

    def run(name: str, *, ok: bool = True, check: bool = False, **options: Any) -> dict[str, Any]:
        code = importlib.import_module(f"{MODULES}.image_puller_{name}")
        arguments = {"namespace": namespace, "_ansible_check_mode": check, "_ansible_diff": True, **options}
        with pytest.MonkeyPatch.context() as environment, contextlib.redirect_stdout(io.StringIO()) as told:
            environment.setenv("K8S_AUTH_KUBECONFIG", str(cluster.kubeconfig))
            with module_arguments(arguments), pytest.raises(SystemExit) as ended:
                code.main()
        result: dict[str, Any] = json.loads(told.getvalue())
        assert (ended.value.code == 0) == ok, f"{result.get('msg')} {result}"
        return result

    return run


@pytest.fixture
def module(cluster: Cluster, namespace: str) -> Module:
    """Run one module of the collection for this test's namespace."""
    return modules_of(cluster, namespace)


def installer_of(module: Module) -> Install:
    """What the role does: install everything, keep the DaemonSet, and wait; the results of the two modules."""

    def run(
        images: Any, *, wait: bool = True, min_nodes: int = 1, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        installed = module("install", images=images, wait=wait, **options)
        user = {key: value for key, value in options.items() if key == "impersonate_user"}
        settings = installed["settings"]
        kept = module("daemonset", settings=settings, wait=wait, wait_timeout=60, min_nodes=min_nodes, **user)
        return installed, kept

    return run


@pytest.fixture
def install(module: Module) -> Install:
    """Install in this test's namespace."""
    return installer_of(module)


@dataclass(frozen=True)
class Kubectl:
    """What a test asks the API of the objects in its namespace."""

    cluster: Cluster
    namespace: str

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        told = self.cluster.kubectl("get", kind, name, "-n", self.namespace, "--ignore-not-found", "-o", "json")
        found: dict[str, Any] | None = json.loads(told) if told.strip() else None
        return found

    def list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        told = self.cluster.kubectl("get", kind, "-n", self.namespace, "-o", "json", *arguments)
        items: list[dict[str, Any]] = json.loads(told)["items"]
        return items

    def daemonset(self) -> dict[str, Any]:
        """The DaemonSet, which must be there."""
        found = self.get("daemonset", DAEMONSET)
        assert found, "there is no DaemonSet"
        return found

    def patch(self, kind: str, name: str, change: object, type_: str = "merge") -> None:
        """Change an object by hand."""
        self.cluster.kubectl("patch", kind, name, "-n", self.namespace, f"--type={type_}", "-p", json.dumps(change))


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    """The objects in this test's namespace."""
    return Kubectl(cluster, namespace)


def container_of(pod: dict[str, Any]) -> str:
    """The id of a pod's first container."""
    container: str = pod["status"]["containerStatuses"][0]["containerID"]
    return container


T = TypeVar("T")


def eventually(question: Callable[[], T], seconds: float = 60, pause: float = 0.2) -> T:
    """The first true answer; a question may also assert. An assertion with what was seen last after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        late = time.monotonic() > end
        try:
            answer = question()
        except AssertionError:
            if late:
                raise
        else:
            if answer:
                return answer
            assert not late, f"still {answer!r} after {seconds} s"
        time.sleep(pause)


def stays(question: Callable[[], object], seconds: float = 5, pause: float = 0.5) -> None:
    """Assert that the answer stays what it is for a while."""
    first, end = question(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(pause)
        assert question() == first


def until_all_is_told(cluster: Cluster, namespace: str) -> None:
    """Wait until the controller has published what it saw last, which it does at most every five seconds."""

    def nothing_more() -> bool:
        mark = cluster.audit_mark()
        time.sleep(7)
        return not our_writes(cluster, mark, namespace)

    eventually(nothing_more, 90)


def our_writes(cluster: Cluster, mark: Any, *users: str) -> list[str]:
    """What was written since the mark by users whose names have one of these words, as the API server counted it."""
    return [
        f"{event['user']} {event['verb']} {event['resource']} {event['name']}"
        for event in cluster.audit(mark)
        if event["verb"] in WRITES and any(user in event["user"] for user in users)
    ]
