# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare what is wanted with what is there, in the fields that are ours, without asking the server.

Ours is what the wanted object names, and what the server's ``managedFields`` say that our field manager applied
earlier (so that something we no longer want is seen). Everything else on the object belongs to somebody else.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import MANAGER
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import same_quantity

# Lists that the API merges by a key, of the kinds that we write (x-kubernetes-list-map-keys); the others are atomic.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "ownerReferences": "uid",
}
# Maps that the API replaces as a whole (x-kubernetes-map-type: atomic): an entry that somebody added is not theirs.
_ATOMIC = ("nodeSelector", "selector", "requiredDuringSchedulingIgnoredDuringExecution", "roleRef")
_QUANTITIES = re.compile(r"\.resources\.(requests|limits)\.[^.]+$")
# The FieldsV1 of a value that is owned with all that is in it.
_WHOLE: Mapping[str, Any] = {}


def differences(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Paths at which the live object is not what is wanted; empty when nothing has to be written."""
    found: list[str] = []
    identity = ("apiVersion", "kind")
    for name, value in wanted.items():
        if name not in identity:
            _compare(value, live.get(name), (owned_fields(live) or {}).get(f"f:{name}"), name, found)
    return found


def owned_fields(live: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields that our manager applied, as the API's FieldsV1 tree; None where it never applied any."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: dict[str, Any] = entry.get("fieldsV1") or {}
            return fields
    return None


def owned_template(live: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The object's managedFields with all that anybody owns of the pod template given to our manager.

    What we then apply without is taken away; what others own outside the template stays theirs.
    """
    template: dict[str, Any] = {}
    entries = []
    for entry in copy.deepcopy(list(live["metadata"].get("managedFields") or ())):
        spec = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if not entry.get("subresource") and "f:template" in spec:
            _merge(template, spec.pop("f:template"))
            if not spec:
                del entry["fieldsV1"]["f:spec"]
        if entry.get("fieldsV1"):
            entries.append(entry)
    ours = {"manager": MANAGER, "operation": "Apply", "apiVersion": live["apiVersion"], "fieldsType": "FieldsV1"}
    return [*entries, {**ours, "fieldsV1": {"f:spec": {"f:template": template}}}]


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, fields in more.items():
        _merge(into.setdefault(name, {}), fields)


def _compare(wanted: Any, live: Any, owned: Mapping[str, Any] | None, path: str, found: list[str]) -> None:
    if wanted in ({}, []) and live is None:
        return  # The server drops what is empty.
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        _compare_mapping(wanted, live, owned, path, found)
    elif isinstance(wanted, (list, tuple)) and isinstance(live, (list, tuple)):
        _compare_list(wanted, live, owned, path, found)
    elif type(wanted) is not type(live) or wanted != live:
        same = _QUANTITIES.search(path) and same_quantity(wanted, live)
        found += [] if same else [path]


def _compare_mapping(
    wanted: Mapping[str, Any], live: Mapping[str, Any], owned: Mapping[str, Any] | None, path: str, found: list[str]
) -> None:
    if path.rsplit(".", 1)[-1] in _ATOMIC:
        owned = _WHOLE
    whole = owned == _WHOLE and wanted
    for name, value in wanted.items():
        _compare(value, live.get(name), _WHOLE if whole else (owned or {}).get(f"f:{name}"), f"{path}.{name}", found)
    ours = set(live) if whole else {key[2:] for key in owned or () if key.startswith("f:")} & set(live)
    found += [f"{path}.{name}" for name in sorted(ours - set(wanted))]


def _compare_list(
    wanted: Sequence[Any], live: Sequence[Any], owned: Mapping[str, Any] | None, path: str, found: list[str]
) -> None:
    merge_key = _MERGE_KEYS.get(path.rsplit(".", 1)[-1])
    if merge_key is None:
        if len(wanted) != len(live):
            found.append(path)
            return
        for number, (one, other) in enumerate(zip(wanted, live, strict=True)):
            _compare(one, other, _WHOLE, f"{path}[{number}]", found)
        return
    by_key = {item.get(merge_key): item for item in live}
    owned_items = {json.loads(key[2:])[merge_key]: fields for key, fields in (owned or {}).items() if key[:2] == "k:"}
    keys = [item[merge_key] for item in wanted]
    for item in wanted:
        key = item[merge_key]
        if key in by_key:
            _compare(item, by_key[key], owned_items.get(key), f"{path}[{key}]", found)
        else:
            found.append(f"{path}[{key}]")
    found += [f"{path}[{key}]" for key in owned_items if key in by_key and key not in keys]
    if [key for key in by_key if key in keys] != [key for key in keys if key in by_key]:
        found.append(f"{path} (order)")
