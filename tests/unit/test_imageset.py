# SPDX-License-Identifier: GPL-3.0-or-later
"""The DaemonSet that a set wants, of what there is around it; and what is told of the one that is there."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, publish
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    ask_admission,
    desired_daemonset,
    look_at,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STATUS
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import fingerprint
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import Admission

from .controller.scripted import HttpError, Server
from .objects import desired, node, served, settings

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "controller", "uid": "2"},
    "spec": {"replicas": 1},
}
SCALED_DOWN = DEPLOYMENT | {"spec": {"replicas": 0}}


def strategy(deployment: dict[str, Any] | None, live: str = "", **options: Any) -> str:
    """Who rolls: OnDelete means the controller. ``live``: the strategy of the DaemonSet that is there."""
    there = {"spec": {"selector": {"matchLabels": {}}, "updateStrategy": {"type": live}}} if live else None
    names = ImageSet("k8s-image-puller", "puller", "controller")
    wanted = desired_daemonset(
        settings(), names, there, config_map=None, deployment=deployment, openshift=False, **options
    )
    type_: str = wanted["spec"]["updateStrategy"]["type"]
    return type_


def test_the_roll_is_that_of_the_controller_where_one_runs_and_may() -> None:
    assert strategy(DEPLOYMENT) == "OnDelete"
    assert strategy(DEPLOYMENT, may_delete_pods=False) == strategy(SCALED_DOWN) == strategy(None) == "RollingUpdate"


@pytest.mark.parametrize("live", ["OnDelete", "RollingUpdate"])
def test_a_controller_that_is_about_to_end_leaves_the_strategy_as_it_is(live: str) -> None:
    assert strategy(None, live, in_cluster=True) == live
    assert strategy(None, live) == "RollingUpdate", "who comes after it decides"


def admission(*gone: str, refused: bool = False, missing: str = "", may: str = "default") -> Admission:
    """What an API server says that does not know these fields of a pod's spec, or refuses image volumes.

    ``missing``: what the pod needs and is not there yet. ``may``: the other namespace in which pods may be created.
    """

    def answer(_method: str, path: str, pod: Any) -> dict[str, Any]:
        if missing == "namespace" and "/default/" not in path:
            raise HttpError(404, "namespaces not found")
        if "/default/" in path and may != "default":
            raise HttpError(403, 'User "u" cannot create resource "pods" in API group ""')
        if missing in pod["spec"]:
            raise HttpError(403, f"error looking up {missing}")
        spec = {key: value for key, value in pod["spec"].items() if key not in gone}
        if refused and any("image" in volume for volume in spec["volumes"]):
            raise HttpError(422, "volumes may not be images")
        if "image" in gone:
            spec["volumes"] = [v if "image" not in v else {"name": v["name"], "emptyDir": {}} for v in spec["volumes"]]
        return {**pod, "spec": spec}

    return ask_admission(Cluster(Server(answer)), settings(), openshift=False)


def test_image_volumes_need_an_api_server_that_keeps_them() -> None:
    assert admission() == Admission(True, "", pod_resources=True)
    assert admission("resources") == Admission(True, "", pod_resources=False)
    assert admission("resources", "image") == Admission(False, "the API server has no image volumes")
    told = admission(refused=True)
    assert told.allowed is False
    assert "volumes may not be images" in told.message


@pytest.mark.parametrize("missing", ["namespace", "serviceAccountName", "priorityClassName"])
def test_what_an_installation_makes_first_keeps_nothing_from_being_asked(missing: str) -> None:
    assert admission(missing=missing) == Admission(True, "", pod_resources=True)
    assert admission("resources", missing=missing) == Admission(True, "", pod_resources=False)
    told = admission(refused=True, missing=missing)
    assert told.allowed is False
    assert "volumes may not be images" in told.message


def test_who_may_not_ask_elsewhere_knows_no_more() -> None:
    told = admission(missing="namespace", may="")
    assert told.allowed is None
    assert "namespaces not found" in told.message


def test_what_the_controller_refuses_is_told_while_it_is_about_these_settings() -> None:
    """The DaemonSet is as it was, and of its pods and nodes alone nobody would know."""

    def answer(_method: str, path: str, _body: Any) -> dict[str, Any]:
        return {"items": [node()] if path.endswith("/nodes") else [], "metadata": {}}

    wanted, live, why = settings(strategy="image_volume"), served(desired()), "strategy image_volume can't be: too old"
    told = publish(Report("Degraded", (why,), daemonset={"generation": 1}), "", {fingerprint(wanted): [why]})
    live["metadata"]["annotations"][STATUS] = told
    cluster = Cluster(Server(answer))
    refused, corrected = look_at(cluster, wanted, live), look_at(cluster, settings(), live)
    assert (refused.verdict, refused.reasons[0]) == ("Degraded", why)
    assert refused.reasons[1:] == corrected.reasons
    assert why not in corrected.reasons
