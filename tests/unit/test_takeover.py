# SPDX-License-Identifier: GPL-3.0-or-later
"""What an administrator reads when an Image Puller of another kind can't be taken over as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.takeover import require_names

WHAT = (
    "Deployment team/puller runs an Image Puller of another kind, parts of which would stay behind under their names."
)


def deployment(account: str | None = "k8s-image-puller", config_map: str = "k8s-image-puller") -> dict[str, Any]:
    """That of the known implementation."""
    container = {
        "name": "puller",
        "image": "quay.io/eclipse/kubernetes-image-puller:next",
        "env": [{"name": "DEPLOYMENT_NAME", "value": "puller"}],
        "envFrom": [{"configMapRef": {"name": config_map}}],
    }
    pod = {"containers": [container], **({"serviceAccountName": account} if account else {})}
    data = {"name": "puller", "namespace": "team"}
    return {"kind": "Deployment", "metadata": data, "spec": {"template": {"spec": pod}}}


def refusal(
    running: dict[str, Any],
    installation: Installation,
    data: dict[str, str],
    daemonsets: tuple[str, ...] = ("kubernetes-image-puller",),
) -> str:
    """The sentence, empty where there is none."""
    try:
        require_names(running, installation, {"data": data}, daemonsets)
    except RuntimeError as error:
        return str(error)
    return ""


PULLER = Installation(deployment_name="puller")


@pytest.mark.parametrize(
    ("running", "installation", "data", "names"),
    [
        (deployment(), Installation(), {}, "deployment_name=puller"),
        (deployment(account="cacher"), PULLER, {}, "service_account_name=cacher"),
        (deployment(config_map="images"), PULLER, {}, "config_map_name=images"),
        (deployment(), PULLER, {"DAEMONSET_NAME": "cache"}, "daemonset_name=cache"),
        (deployment(), Installation(), {"DAEMONSET_NAME": "cache"}, "deployment_name=puller, daemonset_name=cache"),
    ],
)
def test_other_names_are_refused_with_those_that_run(
    running: dict[str, Any], installation: Installation, data: dict[str, str], names: str
) -> None:
    assert refusal(running, installation, data) == (
        f"{WHAT} Remedy: install with {names}, as the playbook migrate prints them"
    )


def test_a_daemonset_in_another_namespace_is_refused() -> None:
    told = refusal(deployment(), PULLER, {"NAMESPACE": "elsewhere"})
    assert told.startswith("Deployment team/puller keeps its DaemonSet in namespace elsewhere")
    assert told.endswith("Remedy: remove it as it was installed, and install with namespace=elsewhere")


@pytest.mark.parametrize("account", ["k8s-image-puller", None])
def test_the_same_names_are_not_refused(account: str | None) -> None:
    data = {"NAMESPACE": "team", "DAEMONSET_NAME": "cache"}
    assert refusal(deployment(account), PULLER, data, ("cache",)) == ""
