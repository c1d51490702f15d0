# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which strategy a set takes, and why: from what is asked for, what holds the images now, the nodes, and admission.

An image volume needs the API server, every matching node's kubelet and runtime, and admission. The kubelet has them by
default since 1.35 (KEP-4639; from 1.33 on if somebody switched them on), containerd since 2.1 and CRI-O since 1.31.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import strategy_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import STRATEGY, is_ours, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    AUTO,
    IMAGE_VOLUME,
    SLEEP,
    Settings,
)

# Since when kubelets mount image volumes without being told to, and since when they do if they are.
BY_DEFAULT, SWITCHED_ON = (1, 35), (1, 33)
_RUNTIMES = {"containerd": (2, 1), "cri-o": (1, 31)}
_NAMED = 3  # Nodes in a sentence.


@dataclass(frozen=True)
class Admission:
    """What the API server says to a pod with image volumes: None, where that could not be found out."""

    allowed: bool | None
    message: str = ""
    pod_resources: bool = True


@dataclass(frozen=True)
class Choice:
    """A strategy and why; ``refused``: why what is asked for can't be, and ``strategy`` is then what stays."""

    strategy: str
    why: str
    pod_resources: bool = True
    refused: str = ""

    def applied(self, settings: Settings) -> Settings:
        """The settings from which the DaemonSet is made."""
        return replace(settings, strategy=self.strategy, pod_resources=self.pod_resources)


def choose(
    settings: Settings,
    live: Mapping[str, Any] | None,
    nodes: Callable[[], Sequence[Mapping[str, Any]] | None],
    ask: Callable[[], Admission],
) -> Choice:
    """The strategy that a set takes.

    Image volumes that hold a set already go on holding it, whatever node joins: what can't hold is told of that node.
    Only where pods are missing is admission asked again.

    :param live: the set's DaemonSet, None where there is none.
    :param nodes: reads the nodes that match; None where they may not be read.
    :param ask: asks the API server for a pod with image volumes, without making it.
    """
    if settings.strategy == SLEEP:
        return Choice(SLEEP, "it is asked for")
    asked_for = settings.strategy == IMAGE_VOLUME
    if live is not None and is_ours(live) and strategy_of(live["spec"]["template"]["spec"]) == IMAGE_VOLUME:
        return _stay(live, asked_for, ask)
    found = nodes()
    reason = _lacking(found, certain=not asked_for)
    refused, admission = bool(reason), Admission(None) if reason else ask()
    if not reason and admission.allowed is not True:
        said = admission.message
        reason = f"admission refuses it: {said}" if admission.allowed is False else f"what admission says is {said}"
        refused = admission.allowed is False
    if asked_for and refused:
        what = (
            f"strategy {IMAGE_VOLUME} can't be: {reason}. "
            f"Remedy: let strategy be {AUTO} or {SLEEP}, or give those nodes a group of their own with node_selector"
        )
        return Choice(SLEEP, reason, refused=what)
    if asked_for or not reason:
        why = "it is asked for" if asked_for else "every matching node can, and admission lets it in"
        # An API server is never older than a kubelet, and has resources of a pod since 1.34.
        whole = admission.pod_resources if admission.allowed else not _lacking(found, certain=True)
        return Choice(IMAGE_VOLUME, why, whole)
    return Choice(SLEEP, reason)


def _stay(live: Mapping[str, Any], asked_for: bool, ask: Callable[[], Admission]) -> Choice:
    status = live.get("status") or {}
    if not asked_for and status.get("currentNumberScheduled", 0) < status.get("desiredNumberScheduled", 0):
        admission = ask()
        if admission.allowed is False:
            return Choice(SLEEP, f"admission refuses it: {admission.message}")
    whole = "resources" in live["spec"]["template"]["spec"]
    why = "it is asked for" if asked_for else told_why(live) or "it holds the images already"
    return Choice(IMAGE_VOLUME, why, whole)


def told_why(live: Mapping[str, Any]) -> str:
    """Why a DaemonSet has the strategy that ``auto`` chose; empty where nothing was chosen."""
    return str((metadata(live).get("annotations") or {}).get(STRATEGY, "")).partition(": ")[2]


def annotation(choice: Choice) -> dict[str, str]:
    """What is written on the DaemonSet of a set whose strategy was chosen."""
    return {STRATEGY: f"{choice.strategy}: {choice.why}"}


def _lacking(nodes: Sequence[Mapping[str, Any]] | None, *, certain: bool) -> str:
    """Why nodes stand against image volumes; empty where none does.

    :param certain: whether not to know is against it, too.
    """
    if not nodes:
        why = "the nodes may not be read" if nodes is None else "no node matches yet"
        return why if certain else ""
    found = unable(nodes, certain=certain)
    if not found:
        return ""
    some = "; ".join(f"node {name} has {why}" for name, why in list(found.items())[:_NAMED])
    return some + (f"; and {len(found) - _NAMED} more nodes" if len(found) > _NAMED else "")


def unable(nodes: Iterable[Mapping[str, Any]], *, certain: bool = False) -> dict[str, str]:
    """The nodes that can't mount image volumes, and what of them is too old.

    :param certain: name those that perhaps can, too: the feature may be switched on, or the version is unknown.
    """
    found = {node["metadata"]["name"]: _too_old(node, certain) for node in nodes}
    return {name: why for name, why in found.items() if why}


def _too_old(node: Mapping[str, Any], certain: bool) -> str:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    runtime, _scheme, number = str(info.get("containerRuntimeVersion") or "").partition("://")
    kubelet = BY_DEFAULT if certain else SWITCHED_ON
    parts: list[tuple[str, str, tuple[int, int] | None, str]] = [
        ("kubelet", str(info.get("kubeletVersion") or ""), kubelet, _show(kubelet))
    ]
    needed = " or ".join(f"{name} {_show(version)}" for name, version in _RUNTIMES.items())
    parts.append((runtime or "container runtime", number, _RUNTIMES.get(runtime), needed))
    problems = []
    for name, text, least, wanted in parts:
        version = _version(text)
        if (certain and version is None) or (version and (least is None or version < least)):
            problems.append(f"{name} {text or 'of unknown version'} ({wanted} or later is needed)")
    return " and ".join(problems)


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _show(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
