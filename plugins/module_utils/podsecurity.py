# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every pod of ours says of its security: the Pod Security Standard "restricted"."""

from __future__ import annotations

from typing import Any

UID = 65532


def pod_security(openshift: bool) -> dict[str, Any]:
    """The pod's part. On OpenShift the SCC of the namespace assigns the user, so none is named."""
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return security if openshift else {**security, "runAsUser": UID}


def container_security() -> dict[str, Any]:
    """The part of each container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
