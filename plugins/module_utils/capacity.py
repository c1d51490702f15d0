# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a set costs on each node that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import format_quantity, parse_quantity
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings


def cost_per_node(settings: Settings) -> dict[str, Any]:
    """Pod slots, and CPU and memory requests and limits of one node's pods, as canonical quantities.

    The scheduler's rule for a pod: the larger of the sum of its containers and the largest init container.
    """
    specs = [daemonset["spec"]["template"]["spec"] for daemonset in build_daemonsets(settings)]
    cost: dict[str, Any] = {"pods": len(specs), "images": len(settings.images)}
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            amount = sum((_pod(spec, kind, resource) for spec in specs), Decimal(0))
            cost[f"{resource}_{kind}"] = format_quantity(amount, binary=resource == "memory")
    return cost


def _pod(spec: Mapping[str, Any], kind: str, resource: str) -> Decimal:
    def amounts(part: str) -> list[Decimal]:
        return [parse_quantity(container["resources"][kind][resource]) for container in spec.get(part) or ()]

    return max([sum(amounts("containers"), Decimal(0)), *amounts("initContainers")])
