# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry of the real kind is understood as its nodes understand it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring, from_text
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Access, Registries, RegistryError
from tests.cluster import Cluster
from tests.cluster.images import MACHINE

USER, PASSWORD = "reader", "correct-horse-battery-staple"
REPOSITORY = "registry-test/java11"


@pytest.fixture(autouse=True)
def well_behaved(cluster: Cluster) -> Iterator[None]:
    """The registry behaves again after each test."""
    yield
    cluster.registry_clear()


def registries(cluster: Cluster, **login: str) -> Registries:
    """What asks the cluster's registry, with a login or without."""
    text = json.dumps({"auths": {cluster.registry: login} if login else {}})
    keyring = from_text(text, "the auth file") if login else Keyring()
    return Registries(Access(keyring, plain=frozenset({cluster.registry})))


def refusal(cluster: Cluster, image: str, **login: str) -> Any:
    with pytest.raises(RegistryError) as caught:
        registries(cluster, **login).facts(image, (f"linux/{MACHINE}",))
    return caught.value


def test_digest_platform_and_layers_are_those_that_were_pushed(cluster: Cluster) -> None:
    image = f"{cluster.registry}/{REPOSITORY}:1"
    pushed = cluster.push(image, size_mb=2, layers=3)
    asked = registries(cluster)
    found = asked.facts(image, (f"linux/{MACHINE}",))
    assert found.digest == asked.digest(image) == pushed
    layers = found.layers_for(f"linux/{MACHINE}")
    assert layers
    assert len(layers) == 3
    assert 2 << 20 < sum(layer.size for layer in layers) < 4 << 20
    by_digest = f"{cluster.registry}/{REPOSITORY}@{pushed}"
    assert asked.facts(by_digest, ()).digest == pushed


def test_an_image_for_another_machine_has_no_layers_for_this_one(cluster: Cluster) -> None:
    image = f"{cluster.registry}/{REPOSITORY}:foreign"
    cluster.push(image, architecture="s390x")
    found = registries(cluster).facts(image, (f"linux/{MACHINE}", "linux/s390x"))
    assert found.platforms == ("linux/s390x",)
    assert found.layers_for(f"linux/{MACHINE}") is None
    assert found.layers_for("linux/s390x")


def test_who_may_read_is_decided_by_the_registry(cluster: Cluster) -> None:
    image = f"{cluster.registry}/{REPOSITORY}:private"
    cluster.push(image)
    cluster.registry_fault(REPOSITORY, "auth", user=USER, password=PASSWORD)
    assert str(refusal(cluster, image)) == f"{cluster.registry} wants a login for {REPOSITORY}"
    assert "does not accept the login of the auth file" in str(refusal(cluster, image, username=USER, password="wrong"))
    found = registries(cluster, username=USER, password=PASSWORD).facts(image, ())
    assert (found.private, found.login) == (True, "the auth file")


def test_each_way_to_fail_has_its_class(cluster: Cluster) -> None:
    image = f"{cluster.registry}/{REPOSITORY}:1"
    assert refusal(cluster, f"{cluster.registry}/{REPOSITORY}:absent").class_ == "not_found"
    assert refusal(cluster, f"{cluster.registry}/registry-test/no-such:1").class_ == "not_found"
    cluster.registry_fault(REPOSITORY, "rate_limit", retry_after=60)
    limited = refusal(cluster, image)
    assert (limited.class_, limited.retry_after) == ("rate_limit", 60)
    cluster.registry_fault(REPOSITORY, "error", status=500)
    assert refusal(cluster, image).class_ == "network"
    cluster.registry_stop()
    try:
        stopped = refusal(cluster, image)
    finally:
        cluster.registry_start()
    assert str(stopped) == f"{cluster.registry} can't be reached from here (connection refused)"
