# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement on one set: assessed when something changed, as often as it costs little, and told where it changed."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import (
    Grace,
    Report,
    assess,
    publish,
    read_published,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import is_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import MANAGER, STATUS
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import is_adoptable, judged
from ansible_collections.kubecache.image_puller.plugins.module_utils.refresh import Refresh
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.clock import jittered
from controller.digest import Digest, Told, transitions
from controller.keeper import Keeper, View
from controller.world import Scope, World

log = logging.getLogger("image-puller")

_SHARE = 10.0  # One part in so many of the time may go into judging.
_LEAST = 0.2  # Seconds between two judgements.
_UNSETTLED = 10.0  # Seconds until the next one while something is still to come: graces end without an event.
_SETTLED = ("Healthy", "NoMatchingNodes", "InvalidSettings")
_LOGGED = 30.0  # Seconds between two log lines on the same verdict.
_PUBLISHED = 5.0  # Seconds between two writes of the same verdict.


class Judge:
    """Judges one set, and tells: metrics, the annotation on the DaemonSet, Events, the log."""

    def __init__(self, world: World, keeper: Keeper) -> None:
        self.digest: Digest | None = None
        self._world = world
        self._keeper = keeper
        self._changed = True
        self._not_before = 0.0
        self._due = 0.0
        self._published_at = float("-inf")
        self._published = ""  # The verdict
        self._to_publish: tuple[Object, str, str] | None = None
        self._rolling = ""
        self._logged_at = float("-inf")
        self._rested_until = float("-inf")

    def wake(self) -> None:
        """Something changed."""
        self._changed = True

    @property
    def due(self) -> float:
        """When ``run`` has something to do."""
        judging = self._not_before if self._changed else max(self._due, self._not_before)
        return min(judging, self._publishing_at() if self._to_publish else float("inf"))

    def run(self) -> None:
        """Judge and tell what is due."""
        now = self._world.clock.monotonic()
        judging = now >= self._not_before and (self._changed or now >= self._due)
        if judging:
            self._changed = False
            began = time.thread_time()
            try:
                report = self._judge()
            except ApiError as error:
                self._world.failed(error)
                self._judge_again()
                return
            except Exception:
                self._judge_again()
                raise
            cost = time.thread_time() - began  # Of the processor: under a limit the clock would count waiting, too.
            self._world.metrics.judged.observe(cost)
            now = self._world.clock.monotonic()
            self._not_before = now + max(_LEAST, cost * _SHARE)
            view = self._keeper.view
            refreshes = view is not None and view.refresh != Refresh()
            whole = view is None or view.complete
            settled = (
                report is not None and report.verdict in _SETTLED and not report.excused and whole and not refreshes
            )
            self._due = now + (jittered(self._interval()) if settled else max(_UNSETTLED, cost * 5 * _SHARE))
        if self._to_publish and self._world.clock.monotonic() >= self._publishing_at():
            self._publish(*self._to_publish)

    def _judge_again(self) -> None:
        """What was to be judged is still to be; soon."""
        self._changed, self._not_before = True, self._world.clock.monotonic() + _UNSETTLED

    def _interval(self) -> float:
        settings = self._keeper.settings
        return float(settings.caching_interval_hours) * 3600 if settings else 3600.0

    # --- judging -----------------------------------------------------------------------------------------------------

    def _judge(self) -> Report | None:
        settings = self._keeper.settings
        if settings is None:
            report, live = self._unusable()
            if report:
                self._tell(report, live)
            return report
        scope = self._world.scope(settings.namespace)
        if scope.pods.denied or not all(watch.known for watch in (*scope.watches, self._world.nodes)):
            return None  # Without pods nothing is known of images.
        live = scope.daemonsets.get(settings.daemonset_name)
        if scope.daemonsets.denied:
            live = self._world.cached.get("DaemonSet", settings.daemonset_name, settings.namespace)
        if live is not None and not is_adoptable(live):  # Nothing is written on what is not ours.
            report = Report("Degraded", self._keeper.decision.reasons)
            self._tell(report, None)
            return report
        view, before = self._view(settings, scope, live), self._keeper.view
        news = before is None or view.report != before.report or view.complete > before.complete
        if news or view.refresh.action != "none" or view.report.verdict not in _SETTLED:
            self._keeper.judged(view)
        else:
            self._keeper.view = view
        report = judged(view.report, self._keeper.decision)
        if view.refresh.sentence:
            report = replace(report, reasons=(view.refresh.sentence, *report.reasons))
        self._tell(report, live)
        return report

    def _view(self, settings: Settings, scope: Scope, live: Object | None) -> View:
        nodes_watch = self._world.nodes
        nodes = None if nodes_watch.denied else nodes_watch.all()
        complete = scope.daemonsets.complete and scope.pods.complete and (nodes is None or nodes_watch.complete)
        if live is None:
            report = assess(settings.images, None, [], nodes, now=self._world.clock.now())
            return View(None, [], report, complete)
        uid = live["metadata"]["uid"]
        pods = [p for p in scope.pods.all() if any(o["uid"] == uid for o in p["metadata"]["ownerReferences"])]
        events = scope.events.told.of(uid, (pod["metadata"]["uid"] for pod in pods))
        now, grace = self._world.clock.now(), Grace.of(settings)
        report = assess(settings.images, live, pods, nodes, events, now=now, grace=grace)
        may = complete and self._keeper.may_refresh(settings)
        refresh = self._keeper.refresher.look(settings, live, report, nodes, blocked=not may)
        return View(live, pods, report, complete, refresh)

    def _unusable(self) -> tuple[Report | None, Object | None]:
        """The verdict on settings that can't be used, for the DaemonSet that the set may still have."""
        if not self._keeper.problems:
            return None, None
        kept = (daemonset for daemonset in self._world.daemonsets() if is_of(daemonset, self._keeper.names))
        return Report("InvalidSettings", self._keeper.problems), next(kept, None)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, report: Report, live: Object | None) -> None:
        digest = Digest.of(report)
        about = self._keeper.about if live is None else functools.partial(dict, live)
        published, warning = read_published(live or {})
        self._keeper.say("published", warning, logging.WARNING)
        before = published["verdict"] if published else ""
        for told in transitions(self.digest, digest, before):
            self._world.recorder.tell(about, told)
        self._tell_roll(about)
        self._log(digest)
        self.digest = digest
        self._world.metrics.digests[self._keeper.names.config_map_name] = digest
        text = publish(report, self._keeper.in_place, self._keeper.not_followed)
        self._to_publish = None
        if live is not None and not live["metadata"].get("deletionTimestamp") and _published(live) != text:
            self._to_publish = (live, report.verdict, text)
            if report.verdict not in (before, self._published):  # What is written may not be in the cache yet.
                self._published_at = float("-inf")

    def _log(self, digest: Digest) -> None:
        now = self._world.clock.monotonic()
        news = self.digest is None or digest.verdict != self.digest.verdict
        if (news or now - self._logged_at > _LOGGED) and self._keeper.say("verdict", digest.sentence()):
            self._logged_at = now

    def _tell_roll(self, about: Callable[[], Object]) -> None:
        """Events for the begin, the stop and the end of a roll."""
        step = self._keeper.step
        now = "RollStopped" if step.stopped else "RollStarted" if step.old else ""
        if now == self._rolling:
            return
        self._world.metrics.roll_stopped.labels(self._keeper.names.config_map_name).set(bool(step.stopped))
        type_, reason = "Warning" if step.stopped else "Normal", now or "RollFinished"
        told = Told(type_, reason, step.sentence or "the change has reached every node")
        self._world.recorder.tell(about, told)
        self._rolling = now

    def _publishing_at(self) -> float:
        return max(self._published_at + _PUBLISHED, self._rested_until)

    def _publish(self, live: Object, verdict: str, text: str) -> None:
        """Write the annotation by a manager of its own, on this very DaemonSet."""
        self._to_publish = None
        data = live["metadata"]
        named = {key: data[key] for key in ("name", "namespace", "uid")}
        body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {**named, "annotations": {STATUS: text}}}
        self._published, self._published_at = verdict, self._world.clock.monotonic()
        try:
            self._world.cluster.apply(body, f"{MANAGER}.status")
        except ApiError as error:
            if error.status in (404, 409, 422):  # It is gone, or another one: the next judgement is on that.
                return
            self._world.failed(error)
            self._rested_until = self._world.clock.monotonic() + (600.0 if error.forbidden else 30.0)
            self._changed = True


def _published(live: Mapping[str, Any]) -> str:
    return str((live["metadata"].get("annotations") or {}).get(STATUS, ""))
