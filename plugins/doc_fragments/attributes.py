# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module says about itself; a module that differs gives its own ``support``."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``extends_documentation_fragment: kubecache.image_puller.attributes`` (or ``.attributes.info``)."""

    DOCUMENTATION = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/kubecache.image_puller.image_puller) in C(module_defaults) to set the connection once for all
        modules of the collection.
    support: full
    membership:
      - kubecache.image_puller.image_puller
  check_mode:
    description:
      - Can run in check mode and say what would change, without changing anything.
    support: full
  diff_mode:
    description:
      - Returns what has changed, or would change, when in diff mode.
    support: full
  idempotent:
    description:
      - When run again with the same arguments on an unchanged cluster, it changes nothing.
    support: full
"""

    # For modules that only read.
    INFO = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/kubecache.image_puller.image_puller) in C(module_defaults) to set the connection once for all
        modules of the collection.
    support: full
    membership:
      - kubecache.image_puller.image_puller
  check_mode:
    description:
      - Can run in check mode, since it never changes anything.
    support: full
  diff_mode:
    description:
      - Returns what has changed, or would change, when in diff mode.
    support: N/A
    details:
      - The module never changes anything.
  idempotent:
    description:
      - When run again with the same arguments on an unchanged cluster, it changes nothing.
    support: full
"""
