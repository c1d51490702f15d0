# SPDX-License-Identifier: GPL-3.0-or-later
"""The images run as a cluster runs them: under runc, as an ordinary user, on a read-only root, without capabilities."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller import image
from tests.cluster import tools

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root to run a container as another user")

RESTRICTED = 65532
ANY_OPENSHIFT_USER = 1000680000


@functools.cache
def runc() -> str:
    """The runtime that the test cluster's nodes use, installed or in the cache."""
    return str(tools.program("runc"))


class Container:
    """A container in a pid namespace of its own, from an image's root file system."""

    def __init__(self, bundle: Path, process: dict[str, Any], root: Path, mounts: Sequence[dict[str, Any]]) -> None:
        self._name = f"image-puller-test-{uuid.uuid4().hex[:12]}"
        self._state = bundle / "state"
        capabilities: dict[str, list[str]] = {kind: [] for kind in ("bounding", "effective", "permitted")}
        specification = {
            "ociVersion": "1.0.2",
            "process": {**process, "capabilities": capabilities, "noNewPrivileges": True},
            "root": {"path": str(root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
                *mounts,
            ],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
        }
        (bundle / "config.json").write_text(json.dumps(specification))
        self._process = subprocess.Popen(
            [runc(), "--root", self._state, "run", "--bundle", bundle, self._name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, timeout: float = 60) -> tuple[int, str]:
        """Return the exit status and the output."""
        output, _ = self._process.communicate(timeout=timeout)
        return self._process.returncode, output

    def init(self) -> int:
        """Return the id, as this host counts, of the container's process 1 when it runs its program."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            state = subprocess.run(
                [runc(), "--root", self._state, "state", self._name], capture_output=True, text=True, check=False
            )
            if state.returncode == 0 and json.loads(state.stdout)["status"] == "running":
                return int(json.loads(state.stdout)["pid"])
            time.sleep(0.05)
        raise AssertionError("the container does not run")

    def remove(self) -> None:
        """End and delete the container, whatever its state is."""
        subprocess.run(
            [runc(), "--root", self._state, "delete", "--force", self._name], capture_output=True, check=False
        )
        self._process.kill()
        self._process.communicate()


class Unpacked:
    """An image's configuration and its root file system in a directory."""

    def __init__(self, archive: Path, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        with tarfile.open(archive) as tar:

            def blob(digest: str) -> bytes:
                file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
                assert file
                return file.read()

            index = tar.extractfile("index.json")
            assert index
            manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
            self.size = sum(layer["size"] for layer in manifest["layers"])
            self.config = json.loads(blob(manifest["config"]["digest"]))["config"]
            for layer in manifest["layers"]:
                with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as files:
                    files.extractall(self.root, numeric_owner=True, filter="fully_trusted")


Start = Callable[..., Container]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a container; all are removed afterwards."""
    started: list[Container] = []

    def start(
        unpacked: Unpacked, *arguments: str, user: int = RESTRICTED, root: Path | None = None, kip: Path | None = None
    ) -> Container:
        command = arguments or (*unpacked.config.get("Entrypoint", ()), *(unpacked.config.get("Cmd") or ()))
        process = {
            "user": {"uid": user, "gid": RESTRICTED if user == RESTRICTED else 0},
            "args": command,
            "env": unpacked.config["Env"],
            "cwd": unpacked.config["WorkingDir"],
        }
        mounts = [{"destination": "/kip", "source": str(kip), "options": ["bind", "rw"]}] if kip else []
        bundle = tmp_path / f"container-{len(started)}"
        bundle.mkdir()
        started.append(Container(bundle, process, root or unpacked.root, mounts))
        return started[-1]

    yield start
    for container in started:
        container.remove()


@pytest.fixture(scope="module")
def archives() -> Path:
    """Return the directory with both images, built if they are not up to date."""
    assert image.main([]) == 0
    return image.CHECKOUT / "build"


@pytest.fixture(scope="module")
def controller(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return Unpacked(archives / "image-puller.oci.tar", tmp_path_factory.mktemp("controller"))


@pytest.fixture(scope="module")
def helper(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return Unpacked(archives / "image-puller-helper.oci.tar", tmp_path_factory.mktemp("helper"))


def kibibytes(process: int, figure: str) -> int:
    """Return a figure of /proc/PROCESS/smaps_rollup, as Rss or Pss, in KiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{figure}:"))


def test_images_say_what_they_are_and_run_as_an_ordinary_user(controller: Unpacked, helper: Unpacked) -> None:
    for unpacked, described in ((controller, image.controller()), (helper, image.helper())):
        labels = unpacked.config["Labels"]
        assert labels["org.opencontainers.image.version"] == described.version
        assert labels["org.opencontainers.image.source"] == "https://github.com/kubecache/image_puller"
        assert "GPL-3.0-or-later" in labels["org.opencontainers.image.licenses"]
        assert unpacked.config["User"] == f"{RESTRICTED}:{RESTRICTED}"
        assert unpacked.config["WorkingDir"] == "/"
    assert controller.config["Entrypoint"] == ["python3", "-m", "controller"]
    assert controller.config["ExposedPorts"] == {"8080/tcp": {}}


def test_images_stay_small(controller: Unpacked, helper: Unpacked) -> None:
    assert controller.size < 22e6
    assert helper.size < 1.3e6


def test_images_tell_nothing_of_the_machine_that_built_them(controller: Unpacked, helper: Unpacked) -> None:
    for unpacked in (controller, helper):
        for name in ("hostname", "hosts", "resolv.conf"):
            file = unpacked.root / "etc" / name
            assert not file.exists() or file.read_bytes() == b""


@pytest.mark.thorough
def test_same_inputs_make_the_same_images(archives: Path, tmp_path: Path) -> None:
    native = image.native_architecture()
    assert native
    for described in (image.controller(), image.helper()):
        again = image.build(described, native, tmp_path, bases={}, refresh=False)
        stamp = f".{described.name}.inputs"
        assert (tmp_path / stamp).read_text() == (archives / stamp).read_text(), "somebody edits the sources"
        assert image.describe(again) == image.describe(archives / again.name)


@pytest.mark.parametrize("user", [RESTRICTED, ANY_OPENSHIFT_USER])
def test_controller_needs_no_arguments_and_says_where_it_belongs(controller: Unpacked, start: Start, user: int) -> None:
    status, output = start(controller, user=user).wait()
    assert (status, output) == (
        1,
        "This program runs in a pod of a Kubernetes cluster: Service host/port is not set.\n",
    )


def test_controller_starts_without_compiling_and_within_its_memory(controller: Unpacked, start: Start) -> None:
    script = """
import controller.process, json, os, sys, tempfile
loaded = [m for m in sys.modules.values() if getattr(m, "__cached__", None) and m.__file__.endswith(".py")]
rss = next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss:"))
missing = [m.__name__ for m in loaded if not os.path.exists(m.__cached__)]
print(json.dumps({"missing": missing, "loaded": len(loaded), "rss": rss, "temporary": tempfile.gettempdir()}))
"""
    status, output = start(controller, "python3", "-c", script).wait()
    assert status == 0, output
    report = json.loads(output)
    assert report["missing"] == []
    assert report["loaded"] > 300
    assert report["rss"] < 56 * 1024
    assert report["temporary"] == "/dev/shm"


def test_helper_gives_a_sleep_that_runs_in_an_image_from_scratch(
    helper: Unpacked, start: Start, tmp_path: Path
) -> None:
    volume, scratch = tmp_path / "volume", tmp_path / "scratch"
    volume.mkdir()
    volume.chmod(0o777)
    scratch.mkdir()
    assert start(helper, "/bin/sh", "-c", "cp /bin/sleep /kip/sleep", kip=volume).wait() == (0, "")

    container = start(helper, "/kip/sleep", "720h", root=scratch, kip=volume)
    process = container.init()
    assert (volume / "sleep").stat().st_size < 64 * 1024
    assert kibibytes(process, "Rss") < 128
    os.kill(process, signal.SIGTERM)
    assert container.wait(timeout=0.5) == (0, "")


def test_helper_without_arguments_sleeps_until_it_is_told_to_end(helper: Unpacked, start: Start) -> None:
    container = start(helper, user=ANY_OPENSHIFT_USER)
    process = container.init()
    assert Path(f"/proc/{process}/cmdline").read_bytes() == b"/bin/sleep\0infinity\0"
    with pytest.raises(subprocess.TimeoutExpired):
        container.wait(timeout=0.5)
    os.kill(process, signal.SIGTERM)
    assert container.wait(timeout=0.5) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "seconds"), [(["0"], 0), (["0.3"], 0.3), (["0.3s"], 0.3), (["0.005m"], 0.3), ([".1", "0.2s"], 0.3)]
)
def test_sleep_takes_the_times_that_coreutils_takes(helper: Unpacked, arguments: list[str], seconds: float) -> None:
    begin = time.monotonic()
    subprocess.run([helper.root / "bin/sleep", *arguments], check=True)
    assert seconds <= time.monotonic() - begin < seconds + 0.25


@pytest.mark.parametrize("argument", ["30d", "720h", "infinity", "inf", "1e300"])
def test_sleep_is_patient(helper: Unpacked, argument: str) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([helper.root / "bin/sleep", argument], check=True, timeout=0.3)


@pytest.mark.parametrize("arguments", [["1y"], ["1hh"], ["-1"], ["nan"], ["h"], [""], []])
def test_sleep_refuses_what_is_no_time(helper: Unpacked, arguments: list[str]) -> None:
    result = subprocess.run([helper.root / "bin/sleep", *arguments], capture_output=True, text=True, check=False)
    name = arguments[0] if arguments else "sleep"
    assert (result.returncode, result.stderr) == (1, f"{name}: not a time; write 30, 1.5m, 720h, 30d or infinity\n")
