#!/usr/bin/python
# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_puller_variables_info
short_description: Say what runs in a namespace as variables of the role
version_added: 0.1.0
description:
  - Reads the Deployment and the ConfigMap of an Image Puller, of this one or of the known Go implementation, and
    returns names, images and settings as variables of the role O(ignore:kubecache.image_puller.image_puller).
  - Of this Image Puller it is the main set. Groups, the controller's image and resources, how registries are reached,
    and the installation method are not among them.
  - Changes nothing.
extends_documentation_fragment:
  - kubecache.image_puller.attributes.info
  - kubecache.image_puller.kubernetes
options:
  namespace:
    description:
      - Where it runs.
    type: str
    default: k8s-image-puller
  deployment_name:
    description:
      - Which Deployment, if several run there.
    type: str
    default: kubernetes-image-puller
seealso:
  - module: kubecache.image_puller.image_puller_install
author:
  - Image Puller maintainers (@kubecache)
"""

EXAMPLES = r"""
- name: Look what runs
  kubecache.image_puller.image_puller_variables_info:
    namespace: k8s-image-puller
  register: running

- name: Write it to a file of variables
  ansible.builtin.copy:
    content: "{{ running.variables | to_nice_yaml }}"
    dest: image-puller.yml
    mode: "0644"
  delegate_to: localhost
"""

RETURN = r"""
variables:
  description: The variables of the role whose values are not the defaults, and the images.
  returned: always
  type: dict
  sample:
    image_puller_namespace: k8s-image-puller
    image_puller_images:
      java11: registry.example.com/team/java11:2.1
    image_puller_caching_interval_hours: "4"
notes:
  description: What the variables can't say, such as an entry of the list that has never been cached.
  returned: always
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import (
    DEPLOYMENT_ARGUMENT,
    NAME_ARGUMENTS,
    make_module,
    run,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.takeover import variables_of

ARGUMENTS: dict[str, Any] = {"namespace": NAME_ARGUMENTS["namespace"], **DEPLOYMENT_ARGUMENT}


def main() -> None:
    module = make_module(ARGUMENTS)

    def work(cluster: Cluster) -> dict[str, Any]:
        variables, notes = variables_of(cluster, module.params["namespace"], module.params["deployment_name"])
        return {"changed": False, "variables": variables, "notes": notes}

    run(module, work)


if __name__ == "__main__":
    main()
