# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in which an installation comes to a cluster: which objects each keeps, and in which order. Pure.

What every method has in common (namespace, PriorityClass, the cache's account, the right to read nodes) is kept by
installer.py, and the DaemonSets by keeper.py. Names are the same in every method, so that one can follow another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils import olm, openshift, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Wanted
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import GROUP, KEPT
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import resource_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings


@dataclass(frozen=True)
class Method:
    """One way to install.

    ``sets``: (installation, sets) -> what holds the settings of the sets. ``controller``: (installation, settings
    that all sets begin with) -> what makes the controller run. Each in the order in which they are applied; the first
    before the second, since a controller may read its settings as it starts.

    ``operated``: the first of ``sets`` is a resource with the main set, and ``controller`` an operator, which comes
    first and keeps what the resource asks for: the cache's account, the main ConfigMap and the controller.
    """

    sets: Callable[[Installation, Sequence[Wanted]], list[dict[str, Any]]]
    controller: Callable[[Installation, Settings], list[dict[str, Any]]]
    operated: bool = False


def set_config_map(
    installation: Installation,
    wanted: Wanted,
    make: Callable[[Installation, Settings], dict[str, Any]] = objects.config_map,
) -> dict[str, Any]:
    """The ConfigMap of one set, with the labels by which the controller and the next installation know it."""
    made = make(replace(installation, config_map_name=wanted.config_map_name), wanted.settings)
    made["metadata"]["labels"] |= {GROUP: wanted.group} if wanted.group else {}
    if wanted.kept:
        made["metadata"]["annotations"] = {KEPT: ",".join(wanted.kept)}
    return made


def _as_manifests(installation: Installation, sets: Sequence[Wanted]) -> list[dict[str, Any]]:
    return [set_config_map(installation, wanted) for wanted in sets]


def _from_template(installation: Installation, sets: Sequence[Wanted]) -> list[dict[str, Any]]:
    return [set_config_map(installation, wanted, openshift.config_map) for wanted in sets]


def _as_resource(installation: Installation, sets: Sequence[Wanted]) -> list[dict[str, Any]]:
    main = next((wanted for wanted in sets if not wanted.group), None)
    if main is None:
        raise RuntimeError(
            "images name no main set, and a KubernetesImagePuller always has one. Remedy: give images besides groups, "
            f"or let install_method be {MANIFESTS}"
        )
    groups = [set_config_map(installation, wanted) for wanted in sets if wanted.group]
    return [resource_of(main.settings, installation, RESOURCE_NAME), *groups]


def _from_olm(installation: Installation, settings: Settings) -> list[dict[str, Any]]:
    return olm.subscription(installation, settings.namespace)


RESOURCE_NAME = "image-puller"
MANIFESTS, OPENSHIFT_TEMPLATE, OPERATOR, OLM = "manifests", "openshift_template", "operator", "olm"
METHODS = {
    MANIFESTS: Method(_as_manifests, objects.controller),
    OPENSHIFT_TEMPLATE: Method(_from_template, openshift.controller),
    OPERATOR: Method(_as_resource, operator.operator, operated=True),
    OLM: Method(_as_resource, _from_olm, operated=True),
}
