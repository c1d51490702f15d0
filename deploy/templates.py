# SPDX-License-Identifier: GPL-3.0-or-later
"""deploy/openshift: the documented OpenShift Templates."""

from __future__ import annotations

from ansible_collections.kubecache.image_puller.plugins.module_utils.openshift import templates
from ansible_collections.kubecache.image_puller.plugins.module_utils.render import to_yaml

HEADER = "---\n# SPDX-License-Identifier: GPL-3.0-or-later\n# Made by `make manifests`.\n"


def files() -> dict[str, str]:
    """The files by their paths below deploy/."""
    return {f"openshift/{name}.yaml": HEADER + to_yaml(template) for name, template in templates().items()}
