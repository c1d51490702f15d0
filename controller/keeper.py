# SPDX-License-Identifier: GPL-3.0-or-later
"""One image set in the controller: what is known of it, and a pass that keeps its DaemonSet.

A pass decides twice: on what the caches know, which costs no request, and, where that asks for something to be done,
again on what the API says now. So a cache that lags never leads to an action.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import overruled_labels, strategy_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report, assess
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    ask_admission,
    because_of,
    carry_out,
    desired_daemonset,
    is_former,
    matching,
    read_owners,
    set_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    describe,
    is_ours,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import (
    Decision,
    Observed,
    decide,
    unreadable,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.refresh import Refresh
from ansible_collections.kubecache.image_puller.plugins.module_utils.roll import Step
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    AUTO,
    FIELDS,
    SLEEP,
    Reading,
    Settings,
    fingerprint,
    from_config_map,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from ansible_collections.kubecache.image_puller.plugins.module_utils.strategy import Admission, Choice, choose
from controller.clock import jittered
from controller.digest import Told
from controller.refresher import Refresher
from controller.world import World

log = logging.getLogger("image-puller")

_RETRY = (1.0, 60.0)  # First and longest pause after an error.
_MOMENT = 0.2
_POLL = 60.0  # Seconds between passes where there is no cache to wake them.
_ASK_AGAIN = 600.0  # Seconds for which an answer of admission is believed.
_QUIET = ("none", "wait", "refuse")  # Actions that change nothing.
_UNDONE = ("wait", "refuse", "recreate", "finish_deletion")  # After these no DaemonSet follows the settings yet.
_KEYS = frozenset(field.key for field in FIELDS)


@dataclass(frozen=True)
class View:
    """What was judged: a DaemonSet, its pods, and the report on both."""

    daemonset: Object | None
    pods: list[Object]
    report: Report
    complete: bool
    refresh: Refresh = field(default_factory=Refresh)


class Keeper:
    """Keeps the DaemonSet of one ConfigMap.

    :param claimed: which other set has the DaemonSet that these settings name; empty for none.
    """

    def __init__(
        self,
        world: World,
        names: ImageSet,
        environment: Mapping[str, str],
        claimed: Callable[[Settings], str],
        refresher: Refresher,
    ) -> None:
        self.names = names
        self.refresher = refresher
        self.tried = False  # Whether a pass has ended, well or not.
        self.settings: Settings | None = None
        self.problems: tuple[str, ...] = ()
        self.in_place = ""  # The fingerprint of the settings that the DaemonSet follows.
        self.not_followed: Mapping[str, Sequence[str]] = {}  # That of those which it is not made to follow -> why.
        self.view: View | None = None
        self.decision = Decision("none")
        self.step = Step()
        self._world = world
        self._environment = environment
        self._claimed = claimed
        self._woken = True
        self._due = 0.0
        self._failures = 0
        self._said: dict[str, str] = {}
        self._rewritten: tuple[Any, ...] = ()
        self._guard = self._told_guard = Guard()
        self._asked: tuple[float, tuple[Settings, str] | None, Admission] = (float("-inf"), None, Admission(None))

    # --- when --------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When the next pass is due."""
        return 0.0 if self._woken else self._due

    def wake(self) -> None:
        """Something that the pass looks at has changed."""
        self._woken = True

    def judged(self, view: View) -> None:
        """The set was judged; a pass that failed is not tried again sooner for that."""
        self.view = view
        if not self._failures:
            self._woken = True

    # --- one pass ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """One pass; whether the judgement should look again. No error ends it: it is said and tried again later."""
        clock = self._world.clock
        before = (self.settings, self.problems, self.decision)
        self._woken = False
        try:
            self._due = clock.monotonic() + self._pass()
        except (ApiError, RuntimeError) as error:
            if isinstance(error, ApiError):
                self._world.failed(error)
            self._failed(str(error))
        except Exception:
            log.exception("%s: unexpected error; trying again", self.names.config_map_name)
            self._failed("unexpected error")
        else:
            self._failures = 0
            self.say("error", "")
            self._world.metrics.synced(self.names.config_map_name, clock.now())
        finally:
            self.tried = True
        return before != (self.settings, self.problems, self.decision)

    def say(self, topic: str, text: str, level: int = logging.INFO) -> bool:
        """Log a state of this set when it changes, not each time that it is seen; whether it changed."""
        if self._said.get(topic, "") == text:
            return False
        self._said[topic] = text
        if text:
            log.log(level, "%s: %s", self.names.config_map_name, text)
        return True

    def about(self) -> Object:
        """What Events are about: the DaemonSet, or the ConfigMap where there is none."""
        settings = self.settings
        live = self._world.cached.get("DaemonSet", settings.daemonset_name, settings.namespace) if settings else None
        if live:
            return live
        data = {"name": self.names.config_map_name, "namespace": self.names.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": data}

    def _failed(self, why: str) -> None:
        first, longest = _RETRY
        pause = jittered(min(longest, first * 2.0**self._failures))
        self._failures = min(self._failures + 1, 10)
        self._due = self._world.clock.monotonic() + pause
        self._world.metrics.errors.labels(self.names.config_map_name).inc()
        self.say("error", f"{why} (tried again with growing pauses)", logging.ERROR)

    def _pass(self) -> float:
        """Seconds until the next pass."""
        reading = self._read()
        if reading is None:
            self.settings = None
            return _POLL
        self.problems = tuple(map(str, reading.problems))
        problems = "; ".join(self.problems)
        self._world.metrics.problems.labels(self.names.config_map_name).set(len(self.problems))
        if reading.settings is None:
            self.settings = None
            self.say("settings", f"the settings can't be used, and what runs stays: {problems}", logging.ERROR)
            return self._interval()
        self.say("settings", f"entries of the settings are left out: {problems}" if problems else "", logging.ERROR)
        settings = reading.settings
        if other := self._claimed(settings):
            self.settings = None
            self.problems = (
                f"DaemonSet {settings.namespace}/{settings.daemonset_name} is that of ConfigMap {other}. "
                "Remedy: write another DAEMONSET_NAME in one of them",
            )
            self.say("decision", f"refuse: {self.problems[0]}", logging.ERROR)
            return self._interval()
        self.settings = settings
        pause, decision = self._keep(settings)
        follows = decision is not None and decision.action not in _UNDONE and not decision.paused
        refused = decision if decision and (decision.action == "refuse" or decision.paused) else None
        self.not_followed = {fingerprint(settings): refused.reasons} if refused else {}
        self.in_place = fingerprint(settings) if follows else ""
        if follows:
            self._remove_former(settings)
        return pause

    def _keep(self, settings: Settings) -> tuple[float, Decision | None]:
        """Seconds until the next pass, and what was decided; None where that has to wait."""
        cached = self._world.cached
        if settings.strategy != SLEEP and not self._world.nodes.known:
            return _MOMENT, None  # What they can decides.
        live = cached.get("DaemonSet", settings.daemonset_name, settings.namespace)
        desired, decision, config_map = self._decide(cached, settings, live)
        if decision.action not in _QUIET:
            live = self._world.cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
            if live is not None:  # One that is missing is made at once, with the owners as they are kept.
                cached.renew()
                desired, decision, config_map = self._decide(self._world.cluster, settings, live)
            elif decision.action != "create":
                return _MOMENT, None  # The cache will hear of it.
            if decision.action not in _QUIET:
                self._act(desired, live, decision, config_map)
                return 0.5 if decision.action in _UNDONE else self._interval(), decision
        self._tell(decision)
        self.decision = decision
        if decision.action == "none":
            self._refresh(settings, live)
        paused = (self._world.clock.now().timestamp() + (decision.again or 0.0)) if decision.paused else 0.0
        self._world.metrics.paused_until.labels(self.names.config_map_name).set(paused)
        return min(self._interval(), decision.again or float("inf")), decision

    def may_refresh(self, settings: Settings) -> bool:
        """Whether nothing else is under way, and the rights for it are there."""
        quiet = self.decision.action == "none" and not self.decision.paused and not self.step.old
        world, namespace = self._world, settings.namespace
        return quiet and world.may_delete_pods(namespace) and world.may_patch_daemonsets(namespace)

    def _refresh(self, settings: Settings, live: Object | None) -> None:
        """What was found to be next for moved tags, if it was found for this very DaemonSet."""
        view = self.view
        if live and view and view.complete and view.daemonset and _version(view.daemonset) == _version(live):
            self.refresher.act(view.refresh, settings, live, self.about)

    def _decide(
        self, cluster: Cluster, settings: Settings, live: Object | None
    ) -> tuple[Object, Decision, Object | None]:
        world = self._world
        config_map, deployment = read_owners(cluster, self.names, live)
        choice = self._choose(settings, live)
        desired = desired_daemonset(
            settings,
            self.names,
            live,
            config_map=config_map,
            deployment=deployment,
            openshift=world.openshift(),
            may_delete_pods=world.may_delete_pods(settings.namespace),
            in_cluster=True,
            choice=choice,
        )
        told, warning = Guard.read(config_map, world.clock.now())
        self.say("guard", warning, logging.WARNING)
        self.say("annotations", unreadable(live) if live else "", logging.WARNING)
        self.say("labels", overruled_labels(settings, desired), logging.WARNING)
        if told != self._told_guard:  # Else what this process did counts, which is not always written.
            self._told_guard = self._guard = told
        observed = self._observed(settings, live)
        more: dict[str, Any] = {
            "guard": self._guard,
            "max_unavailable": settings.max_unavailable,
            "may_patch": world.may_patch_daemonsets(settings.namespace),
        }
        decision = decide(desired, observed, now=world.clock.now(), **more)
        if live and decision.action == "patch" and self._fingerprint(desired, live, decision) == self._rewritten:
            # What admission made of it is as good as it gets.
            decision = decide(live, observed, now=world.clock.now(), **more)
        if observed.complete and decision.action in ("none", "roll") and not decision.paused:
            self.step = decision.step
        return desired, because_of(choice, decision, settings), config_map

    def _choose(self, settings: Settings, live: Object | None) -> Choice:
        nodes = self._world.nodes
        known = None if nodes.denied else nodes.all()
        choice = choose(settings, live, lambda: matching(settings, known), lambda: self._ask(settings, live))
        if settings.strategy == AUTO:
            self.say("strategy", f"strategy {choice.strategy}: {choice.why}")
        return choice

    def _ask(self, settings: Settings, live: Object | None) -> Admission:
        """What admission says to image volumes; believed for a while, unless somebody else has changed the strategy."""
        held_by = strategy_of(live["spec"]["template"]["spec"]) if live else ""
        now, (at, about, answer) = self._world.clock.monotonic(), self._asked
        if now - at > _ASK_AGAIN or about != (settings, held_by):
            answer = ask_admission(self._world.cluster, settings, openshift=self._world.openshift())
            self._asked = (now, (settings, held_by), answer)
        return answer

    def _observed(self, settings: Settings, live: Object | None) -> Observed:
        """With the last judgement, if it was of this very DaemonSet and template."""
        if live is None:
            return Observed(None, (), assess(settings.images, None, (), None))
        view = self.view
        if view is None or view.daemonset is None or _version(view.daemonset) != _version(live):
            return Observed(live, (), Report("Progressing", ()), complete=False)
        return Observed(live, view.pods, view.report, view.complete)

    def _act(self, desired: Object, live: Object | None, decision: Decision, config_map: Object | None) -> None:
        world, name = self._world, self.names.config_map_name
        change = carry_out(
            world.cluster,
            decision,
            desired,
            live,
            image_set=self.names,
            config_map=config_map,
            wait=False,
            may_patch=world.may_patch_daemonsets(desired["metadata"]["namespace"]),
        )
        self.decision = decision
        notes = "; ".join(change.notes)
        if change.changed:
            self._guard = decision.guard or self._guard
            reasons = "; ".join(decision.reasons)
            log.info("%s: %s %s: %s", name, change.action, change.name, reasons)
            world.metrics.actions.labels(name, decision.action).inc()
            if decision.action != "roll":  # The begin, a stop and the end of a roll are told where it is judged.
                world.recorder.tell(self.about, Told("Normal", change.action.capitalize(), reasons))
            self._said["decision"] = self._said["admission"] = ""
            self.say("notes", notes, logging.WARNING)
        elif notes:
            self._rewritten = self._fingerprint(desired, live, decision)
            if self.say("admission", notes, logging.WARNING):
                world.recorder.tell(self.about, Told("Warning", "ChangedByAdmission", notes))

    def _fingerprint(self, desired: Object, live: Object | None, decision: Decision) -> tuple[Any, ...]:
        """What a dry run's answer depends on: while it is the same, admission is not asked again."""
        return (decision.action, str(desired), _version(live) if live else None)

    def _tell(self, decision: Decision) -> None:
        reasons = "; ".join(decision.reasons)
        text = reasons if decision.action == "none" else f"{decision.action}: {reasons}"
        level = logging.ERROR if decision.action == "refuse" else logging.INFO
        if not self.say("decision", text, level) or not text:
            return
        if decision.action == "refuse":
            self._world.recorder.tell(self.about, Told("Warning", "Refused", reasons))
        elif decision.paused:
            self._world.recorder.tell(self.about, Told("Warning", "Paused", reasons))

    def _interval(self) -> float:
        hours = float(self.settings.caching_interval_hours) if self.settings else 1.0
        polled = not (self._world.config_maps.complete and self._daemonsets_are_watched())
        return jittered(min(hours * 3600, _POLL if polled else float("inf")))

    def _daemonsets_are_watched(self) -> bool:
        return self.settings is None or self._world.scope(self.settings.namespace).daemonsets.complete

    # --- DaemonSets that are not wanted any more ---------------------------------------------------------------------

    def _remove_former(self, settings: Settings) -> None:
        """Remove this set's DaemonSets of a former name or namespace, once the one that the settings name is there."""
        new = self._world.scope(settings.namespace).daemonsets.get(settings.daemonset_name)
        if new is None or not is_ours(new) or metadata(new).get("deletionTimestamp"):
            return
        for daemonset in self._world.daemonsets():
            if is_former(daemonset, self.names, settings):
                remove(self._world, daemonset, f"the settings name {describe(new)} now")

    # --- where the settings come from --------------------------------------------------------------------------------

    def _read(self) -> Reading | None:
        try:
            config_map = self._world.cached.get("ConfigMap", self.names.config_map_name, self.names.namespace)
        except ApiError as error:
            if not error.forbidden or "IMAGES" not in self._environment:
                raise
            self.say("source", f"{error}. The settings are taken from the environment of the process", logging.WARNING)
            return from_config_map(self._environment)
        if config_map is None:
            return None
        data = config_map.get("data") or {}
        unknown = ", ".join(sorted(set(data) - _KEYS))
        self.say("keys", f"keys that nobody here knows are left alone: {unknown}" if unknown else "")
        return from_config_map(data)


def remove(world: World, daemonset: Object, why: str) -> bool:
    """Delete a DaemonSet of ours that is not wanted any more, if it is still this very one; whether it was deleted."""
    data = daemonset["metadata"]
    if data.get("deletionTimestamp") or not is_ours(daemonset):
        return False
    live = world.cluster.get("DaemonSet", data["name"], data["namespace"])
    if live is None or live["metadata"]["uid"] != data["uid"] or not is_ours(live) or set_of(live) != set_of(daemonset):
        return False
    world.cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"])
    name = set_of(daemonset).config_map_name
    world.metrics.actions.labels(name, "delete").inc()
    log.info("%s: deleted %s: %s", name, describe(daemonset), why)
    return True


def _version(daemonset: Mapping[str, Any]) -> tuple[Any, ...]:
    data = daemonset["metadata"]
    return (data.get("uid"), data.get("generation"), data.get("deletionTimestamp"))
