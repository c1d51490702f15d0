# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is implemented as an action plugin of the same name, and runs on the control node.

DOCUMENTATION = r"""
module: image_puller_table
short_description: Print a report of the Image Puller as a table
version_added: 0.1.0
description:
  - Prints the result of M(kubecache.image_puller.image_puller_info) while the play runs, so that a person reads it in
    a terminal as well as in the log of a job.
  - One line for each image with the number of nodes in each state. Below it what needs a sentence, as what failed
    on which nodes, in the kubelet's words, and with the remedy.
  - What was printed is told to whoever runs Ansible, too, as M(ansible.builtin.set_stats) does, under the name
    C(image_puller). Automation Platform shows it as the artifact of a job. It has C(lines); of sets C(verdict),
    C(summary) and C(sets), each with its C(verdict), C(reasons), C(summary) and C(images); of a plan C(verdict) and
    C(findings).
  - The lines are plain ASCII and as wide as the terminal, at most 120 characters, and 80 where there is no terminal.
options:
  report:
    description:
      - The registered result of M(kubecache.image_puller.image_puller_info), or the C(report) that
        M(kubecache.image_puller.image_puller_daemonset) returned.
      - At least one of O(report), O(sets), O(plan), O(variables) and O(notes) is needed.
    type: dict
  sets:
    description:
      - The C(sets) that M(kubecache.image_puller.image_puller_info) or M(kubecache.image_puller.image_puller_daemonset)
        returned with C(sets=all). Of several sets each is printed under its heading.
      - Mutually exclusive with O(report).
    type: list
    elements: dict
  plan:
    description:
      - The C(plan) that M(kubecache.image_puller.image_puller_install) or M(kubecache.image_puller.image_puller_config)
        returned. Printed are what is cached, what it costs, and what stands against it.
      - Mutually exclusive with O(report) and O(sets).
    type: dict
  variables:
    description:
      - The C(variables) that M(kubecache.image_puller.image_puller_variables_info) returned, printed as YAML.
      - Mutually exclusive with O(report), O(sets) and O(plan).
    type: dict
  notes:
    description: Sentences that are printed below the table.
    type: list
    elements: str
    default: []
author:
  - Image Puller maintainers (@kubecache)
attributes:
  check_mode:
    description: Can run in check mode and print the same.
    support: full
  diff_mode:
    description: Nothing is changed, so there is no difference to show.
    support: none
seealso:
  - module: kubecache.image_puller.image_puller_info
"""

EXAMPLES = r"""
- name: Look at the images on the nodes
  kubecache.image_puller.image_puller_info:
    namespace: k8s-image-puller
  register: state

- name: Print them
  kubecache.image_puller.image_puller_table:
    report: "{{ state }}"
"""

RETURN = r"""
lines:
  description: The lines that were printed.
  returned: always
  type: list
  elements: str
  sample:
    - "Healthy: DaemonSet k8s-image-puller/kubernetes-image-puller"
    - "1 of 1 image cached on both nodes"
    - ""
    - "IMAGE  NODES CACHED PULLING WAITING FAILED REASON"
    - "java11     2      2       -       -      -"
"""
