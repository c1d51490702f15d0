# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing the same again: what a lock says is what nodes are compared with; and what policies ask of the pods."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE
from tests.cluster import Cluster

from .conftest import Kubectl, Module, Playbook, eventually, new_namespace
from .test_playbooks import warnings_of
from .test_preflight import written

STEPS = True
JAVA, THEIA = "registry.example.com/lock/java11:1", "registry.example.com/lock/theia:1"
IMAGES = {"java11": JAVA, "theia": THEIA}
CACHE = ("-l", "app.kubernetes.io/component=cache")


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """One for all tests of this file, which follow one another."""
    with new_namespace(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def digests(cluster: Cluster) -> dict[str, str]:
    """What the references stand for: of java11 an index, of theia an image."""
    return {JAVA: cluster.push(JAVA, index=True), THEIA: cluster.push(THEIA)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The lock file."""
    return tmp_path_factory.mktemp("lock") / "puller.lock.yml"


@pytest.fixture
def options(cluster: Cluster, path: pathlib.Path) -> dict[str, Any]:
    """The list, the lock, and how registries are asked, all as variables and as options alike."""
    mirrors = dict.fromkeys(("registry.example.com", "ghcr.io"), cluster.registry)
    access = {"registry_mirrors": mirrors, "registry_insecure": [f"http://{cluster.registry}"]}
    return {"images": IMAGES, "controller": False, "lock": str(path), **access}


def test_the_plan_writes_the_lock_when_it_is_asked_to_and_only_then(
    playbook: Playbook, digests: dict[str, str], path: pathlib.Path, options: dict[str, Any]
) -> None:
    refused = playbook("plan", ok=False, **options)
    assert f"lock '{path}': there is no such file. Remedy: correct the path, or write the lock anew" in refused.stdout
    assert playbook("plan", "--check", lock_update=True, **options).changed == 1
    assert not path.exists()
    assert playbook("plan", lock_update=True, **options).changed == 1
    text = path.read_text()
    entries = {entry["image"]: entry for entry in yaml.safe_load(text)["images"]}
    assert entries.keys() == {JAVA, THEIA, HELPER_IMAGE}
    assert {image: entries[image]["digest"] for image in digests} == digests
    assert entries[JAVA]["platforms"]["linux/amd64"] != digests[JAVA]
    assert entries[THEIA]["platforms"] == {"linux/amd64": digests[THEIA]}
    assert all(entry["size"] > 0 for entry in entries.values())
    assert playbook("plan", lock_update=True, **options).changed == 0
    assert path.read_text() == text


def test_a_lock_or_a_class_that_is_wrong_is_refused_and_nothing_is_written(
    cluster: Cluster, module: Module, path: pathlib.Path, options: dict[str, Any]
) -> None:
    damaged, more = path.with_name("damaged.yml"), {**options, "images": {**IMAGES, "che": JAVA}}
    damaged.write_text(path.read_text().replace("sha256:", "sha512:"))
    other = path.with_name("other.yml")
    other.write_text(path.read_text().replace("linux/amd64", "linux/s390x"))
    mark = cluster.audit_mark()
    told = module("install", ok=False, **{**options, "lock": str(damaged)})["msg"]
    assert f"lock '{damaged}': images[0].digest 'sha512:" in told
    told = module("install", ok=False, **more)["msg"]
    assert f"lock '{path}': there is no image che (cache), which is {JAVA} in the list. Remedy: write the lock" in told
    told = module("install", ok=False, preflight="warn", **{**options, "lock": str(other)})["msg"]
    assert (
        f"lock '{other}': the image java11 ({JAVA}) is locked for linux/s390x, and its nodes need linux/amd64" in told
    )
    assert module("config", ok=False, images={"java11": THEIA}, lock=str(path))["msg"].count("the image java11 (cache)")
    unknown: list[dict[str, Any]] = [{"runtime_class_name": "absent"}, {"priority_class_name": "absent"}]
    for classes in unknown:
        told = module("install", ok=False, **options, **classes)["msg"]
        assert "Class absent does not exist, and pods with it are refused. Remedy: create it, or correct" in told
        plan = module("install", check=True, preflight="report", **options, **classes)["plan"]
        assert [finding["level"] for finding in plan["findings"] if finding["about"] == "classes"] == ["error"]
    assert written(cluster, mark) == []


def test_an_installation_from_the_lock_is_compared_with_it_and_has_what_policies_ask_for(
    playbook: Playbook,
    module: Module,
    kubectl: Kubectl,
    digests: dict[str, str],
    path: pathlib.Path,
    options: dict[str, Any],
) -> None:
    policies: dict[str, Any] = {"pod_labels": {"cost-center": "4711"}, "pod_annotations": '{"example.com/mesh": "off"}'}
    text = path.read_text()
    playbook("install", wait_timeout=60, **policies, **options)
    assert path.read_text() == text
    report = module("info", lock=str(path), registry_mirrors=options["registry_mirrors"], details="all")
    assert report["verdict"] == "Healthy"
    assert {(row["image"], row["digest"]) for row in report["rows"]} == set(digests.items())
    pods = kubectl.list("pod", *CACHE)
    assert len(pods) == 2
    for pod in pods:
        assert pod["metadata"]["labels"]["cost-center"] == "4711"
        assert pod["metadata"]["annotations"]["example.com/mesh"] == "off"
    assert not module("install", daemonset=True, lock_update=True, **policies, **options)["changed"]
    renamed = path.with_name("renamed.yml")
    renamed.write_text(text.replace("name: theia", "name: che"))
    warnings = warnings_of(module("daemonset", sets="all", lock=str(renamed)))
    assert [warning.partition(" (cache)")[0] for warning in warnings if str(renamed) in warning] == [
        f"lock '{renamed}': there is no image theia",
        f"lock '{renamed}': the image che",
    ]
    access = {name: options[name] for name in ("registry_mirrors", "registry_insecure", "lock")}
    more: dict[str, Any] = {"images": {**IMAGES, "che": THEIA}, "lock_update": True, "check": True, **access}
    told = module("config", **more)
    assert told["lock"]["action"] == "patched"
    assert {entry["name"] for entry in yaml.safe_load(told["lock"]["text"])["images"]} == {*more["images"], "helper"}
    assert path.read_text() == text


@pytest.mark.thorough
def test_image_volumes_whose_digests_nobody_tells_are_cached_and_the_table_says_that_they_were_not_compared(
    module: Module, digests: dict[str, str], options: dict[str, Any]
) -> None:
    """Without the right to read nodes; with it their lists tell, and are waited for."""
    names: dict[str, Any] = {"config_map_name": "mounted", "daemonset_name": "mounted"}
    module("config", images=IMAGES, strategy="image_volume", **names)
    del names["daemonset_name"]
    try:
        read: dict[str, Any] = {"lock": options["lock"], "wait": True, **names}
        told = module("daemonset", read_nodes=False, wait_timeout=60, **read)
        why = "2 images are cached on 2 nodes and could not be compared with the lock: nobody tells which image"
        assert (told["verdict"], told["verdict_reasons"][0][: len(why)]) == ("Healthy", why)
        assert {image["reason"] for image in told["report"]["images"]} == {"NotCompared"}
        told = module("daemonset", wait_timeout=120, **read)
        assert (told["verdict"], told["verdict_reasons"]) == ("Healthy", [])
        rows = module("info", lock=options["lock"], details="all", **names)["rows"]
        assert {(row["image"], row["digest"], row["reason"]) for row in rows} == {(*it, None) for it in digests.items()}
    finally:
        module("config", state="absent", **names)


def test_a_tag_that_moved_is_told_and_a_node_that_has_it_is_named(
    cluster: Cluster,
    playbook: Playbook,
    module: Module,
    kubectl: Kubectl,
    digests: dict[str, str],
    options: dict[str, Any],
) -> None:
    moved = cluster.push(JAVA, index=True, seed="moved")
    sentence = f"java11 ({JAVA}) is {moved} in its registry now, and the lock has {digests[JAVA]} since"
    assert sentence in " ".join(playbook("plan", **options).stdout.split())
    status = playbook("status", **{key: value for key, value in options.items() if key != "images"}).stdout
    assert sentence in " ".join(status.split())
    assert "Healthy: " in status
    cluster.node("node-1").remove_image(JAVA)
    (old,) = (pod for pod in kubectl.list("pod", *CACHE) if pod["spec"]["nodeName"] == "node-1")
    cluster.kubectl("delete", "pod", old["metadata"]["name"], "-n", old["metadata"]["namespace"])

    def refused() -> dict[str, Any]:
        told = module("daemonset", lock=options["lock"], wait=True, wait_timeout=60, ok=False)
        assert "other_digest" in told["msg"], told["msg"]
        return told

    told = eventually(refused)
    assert f"java11 ({JAVA}) failed on 1 node (node-1): other_digest. The node has {moved}, and the lock" in told["msg"]
    rows = module("info", lock=options["lock"], details="all")["rows"]
    assert {row["node"] for row in rows if row["class"] == "other_digest"} == {"node-1"}
    module("daemonset", lock=options["lock"], wait=True, wait_timeout=30, wait_for={"excuse": ["other_digest"]})
    assert module("daemonset", wait=True, wait_timeout=30)["verdict"] == "Healthy"
