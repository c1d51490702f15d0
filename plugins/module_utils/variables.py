# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables are misspelt ones of the role, or switches that are neither on nor off.

Ansible ignores a variable that nobody reads without a word, and takes what it does not know for false.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

PREFIX = "image_puller_"
# What two names have in common, without the prefix. A letter or a word that is missing is closer than this; a name that
# has a word of ours among its own, as image_puller_registry or image_puller_images_of_team, is not.
MISSPELT = 0.75
# What Ansible's filter bool knows, and "" for what is not set.
SWITCHES = ("true", "false", "yes", "no", "on", "off", "1", "0", "")


class Unknown(NamedTuple):
    """One sentence for each unknown variable."""

    misspelt: list[str]  # So close to one of the role's that it is meant to be that one.
    ignored: list[str]  # Perhaps the user's own.


def unknown(names: Iterable[str], known: Iterable[str]) -> Unknown:
    """What is to be said of the ``names`` that begin as the role's variables do and are none of the ``known`` ones."""
    ours = {name.removeprefix(PREFIX): name for name in known}
    found = Unknown([], [])
    for name in sorted({name for name in names if name.startswith(PREFIX)} - set(ours.values())):
        rest, says = name.removeprefix(PREFIX).lower(), f"{name} is no variable of this role"
        if close := difflib.get_close_matches(rest, ours, n=1, cutoff=MISSPELT):
            found.misspelt.append(f"{says}; did you mean {ours[close[0]]}?")
        elif near := difflib.get_close_matches(rest, ours, n=1):
            found.ignored.append(f"{says}, and does nothing; the nearest one is {ours[near[0]]}.")
        else:
            found.ignored.append(f"{says}, and does nothing.")
    return found


def unclear(switches: Mapping[str, object]) -> list[str]:
    """One sentence for each variable whose value is neither true nor false; None and "" mean that it is not set."""
    return [
        f"{name} '{value}': it is neither true nor false. Remedy: write true or false."
        for name, value in switches.items()
        if value is not None and str(value).lower() not in SWITCHES
    ]
