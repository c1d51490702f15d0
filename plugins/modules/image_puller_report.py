# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is implemented as an action plugin of the same name, and runs on the control node.

DOCUMENTATION = r"""
module: image_puller_report
short_description: Write a report of the Image Puller as HTML, JSON, or for Prometheus
version_added: 0.1.0
description:
  - Writes the result of M(kubecache.image_puller.image_puller_info) to files on the control node.
  - The HTML report is one file that needs no network. It tells the verdict and the reasons, each image on each node,
    what a set costs, and what has changed since the former report.
  - The JSON report holds the same, with each image on each node as M(kubecache.image_puller.image_puller_info) returns
    it. The textfile for Prometheus holds gauges for the textfile collector of node_exporter.
  - Addresses that a kubelet quotes are written without user, password and query.
options:
  report:
    description:
      - The registered result of M(kubecache.image_puller.image_puller_info), on a large cluster with its option
        C(matrix).
    type: dict
    required: true
  path:
    description:
      - The file, or the files separated by commas. The name decides the form, C(.html), C(.json) or C(.prom).
      - A relative path begins where C(ansible-playbook) was started. The directory must exist.
    type: list
    elements: path
    required: true
  since:
    description:
      - An earlier report, HTML or JSON, to compare with. Not given, it is the one that is replaced.
    type: path
  required:
    description:
      - Whether the task fails if a file can't be written, or its form is not known. With V(false) it warns.
      - All others are written in either case.
    type: bool
    default: true
  notes:
    description: Sentences that stand in the report.
    type: list
    elements: str
    default: []
author:
  - Image Puller maintainers (@kubecache)
attributes:
  check_mode:
    description: Writes nothing in check mode, and says whether it could.
    support: full
  diff_mode:
    description: Shows no difference.
    support: none
  idempotent:
    description: A report says when it was made, so that each is new.
    support: none
seealso:
  - module: kubecache.image_puller.image_puller_info
"""

EXAMPLES = r"""
- name: Look at the images on the nodes
  kubecache.image_puller.image_puller_info:
    namespace: k8s-image-puller
    matrix: true
  register: state

- name: Write what was seen
  kubecache.image_puller.image_puller_report:
    report: "{{ state }}"
    path:
      - /srv/www/image-puller.html
      - /var/lib/node_exporter/image-puller.prom
"""

RETURN = r"""
paths:
  description: The files that were written, or in check mode would be.
  returned: always
  type: list
  elements: str
  sample: ["/srv/www/image-puller.html"]
"""
