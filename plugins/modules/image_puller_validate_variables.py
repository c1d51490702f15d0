# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is implemented as an action plugin of the same name, and runs on the control node.

DOCUMENTATION = r"""
module: image_puller_validate_variables
short_description: Refuse misspelt variables of the Image Puller's role, and values that can't be meant
version_added: 0.1.0
description:
  - Each entry point of the role P(kubecache.image_puller.image_puller#role) begins with it.
  - Looks at the names of all variables that begin with C(image_puller_), wherever they were set.
  - One that is close to a known one is misspelt, and fails the task with a sentence that names the known one. Ansible
    would ignore it.
  - One that is close to none may be a variable of your own, and is a warning.
  - Refuses values that would be misunderstood, or found wrong only when all else is done.
options:
  known:
    description: The names of the variables that there are.
    type: list
    elements: str
    required: true
  switches:
    description: Names and values of variables that must be true or false, or not set.
    type: dict
    default: {}
  report:
    description: Files for a report, whose names must end as M(kubecache.image_puller.image_puller_report) knows it.
    type: list
    elements: path
    default: []
seealso:
  - module: kubecache.image_puller.image_puller_report
author:
  - Image Puller maintainers (@kubecache)
attributes:
  check_mode:
    description: Changes nothing, and does the same in check mode.
    support: full
  diff_mode:
    description: Nothing is changed, so there is no difference to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Refuse misspelt variables
  kubecache.image_puller.image_puller_validate_variables:
    known:
      - image_puller_images
      - image_puller_namespace
"""

RETURN = r"""
msg:
  description: One sentence for each misspelt variable, and for each wrong value.
  returned: failure
  type: str
  sample: image_puller_imges is no variable of this role; did you mean image_puller_images?
"""
