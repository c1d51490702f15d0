# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller: level-triggered, so that a watch's event only wakes it and each pass starts from what is.

Three threads: one keeps the DaemonSets, and is never in the way of the second, which judges and tells; of 5,000 nodes
that takes seconds. The third asks registries, which may take as long as it likes.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Mapping

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import sets_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet, set_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import config_map_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import IMAGE_SET, STATUS, is_ours, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import CONFIG_MAP_NAME, Settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.asker import Asker, Question
from controller.clock import Clock, Pulse
from controller.judge import Judge
from controller.keeper import Keeper, remove
from controller.metrics import Metrics
from controller.refresher import Refresher, question_of
from controller.world import World

log = logging.getLogger("image-puller")

_TICK = 10.0  # Seconds; the loop shows that it moves at least as often.
_MOMENT = 1.0  # Seconds: whatever goes wrong, it does not go wrong without a pause.
_STUCK = 120.0  # Longer than any request may take.
_KEEPS, _JUDGES = "the loop that keeps the DaemonSets", "the loop that judges them"
# Seconds that a ConfigMap has to be away before its DaemonSet is: tools replace an object by deleting it first.
_ABSENCE = 10.0


class Controller:
    """Keeps the DaemonSets of all sets of its namespace.

    :param namespace: the pod's own.
    :param environment: of the process; where the settings come from when no ConfigMap may be read.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        deployment_name: str,
        environment: Mapping[str, str],
        clock: Clock | None = None,
    ) -> None:
        self.metrics = Metrics()
        self._clock = clock or Clock()
        self._world = World(cluster, self._clock, self.metrics, namespace=namespace, woken=self._woken)
        self._namespace = namespace
        self._deployment_name = deployment_name
        self._environment = environment
        self._named = environment.get("CONFIG_MAP_NAME", "")
        self._wake = threading.Event()
        self._wake_judge = threading.Event()
        self._woken_at: float | None = None
        self._pulse = Pulse(self._clock, _KEEPS, _JUDGES, most=_STUCK)
        self._sets: dict[str, tuple[Keeper, Judge]] = {}
        self._asker = Asker(self._world, environment, self._questions, self._wake_judges)
        self._absent: dict[str, float] = {}
        self._passed = False
        self._longest = [0.0]

    # --- what the probes ask -----------------------------------------------------------------------------------------

    def trouble(self) -> str:
        """Why the process should be restarted; empty while its loops move. Registries may take as long as they like."""
        return self._pulse.trouble()

    def unready(self) -> str:
        """Why the controller does not do its work yet; empty once its caches are filled and each set was looked at.

        A set that can't be kept is told in log and metrics: to start the process again would mend it no more, and the
        others would be kept no longer.
        """
        empty = [f"{watch.kind}s" for watch in self._world.watches if not watch.known]
        if empty:
            return f"not read yet: {', '.join(empty)}"
        return "" if self._passed else "not every set was looked at yet"

    # --- the loops ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the process ends."""
        self._world.start()
        threading.Thread(target=self._judge, name="judge", daemon=True).start()
        self._asker.start()
        while True:
            self._pulse.beat(_KEEPS)
            self._wake.clear()
            due = self._keep() if self._is_named() and self._world.config_maps.known else float("inf")
            self._clock.wait(self._wake, min(_TICK, due - self._clock.monotonic()))

    def _keep(self) -> float:
        """A pass over each set for which it is due; when the next is."""
        self._find_sets()
        now = self._clock.monotonic()
        woken_at, self._woken_at = self._woken_at, None
        for keeper, judge in list(self._sets.values()):
            if keeper.due <= now:
                self._pulse.beat(_KEEPS)
                if woken_at is not None:
                    self.metrics.delayed(self._clock.monotonic() - woken_at, self._longest)
                with self.metrics.passes.time():
                    news = keeper.run()
                if news:
                    judge.wake()
                    self._wake_judge.set()
        self._passed = self._passed or all(keeper.tried for keeper, _judge in self._sets.values())
        return min([self._remove_absent(), *(keeper.due for keeper, _judge in self._sets.values())])

    def _judge(self) -> None:
        while True:
            self._wake_judge.clear()
            due = float("inf")
            for keeper, judge in list(self._sets.values()):
                self._pulse.beat(_JUDGES)
                try:
                    if judge.due <= self._clock.monotonic():
                        judge.run()
                        self._world.tidy()
                        self._wake.set()
                except Exception:
                    log.exception("%s: unexpected error while judging", keeper.names.config_map_name)
                    self._clock.sleep(_MOMENT)
                due = min(due, judge.due)
            for name in set(self.metrics.digests) - self._sets.keys():  # It went while it was judged.
                self.metrics.forget(name)
            self._pulse.beat(_JUDGES)
            try:
                self._world.recorder.flush()
            except Exception:
                log.exception("unexpected error while telling")
            self._clock.wait(self._wake_judge, min(_TICK, due - self._clock.monotonic()))

    # --- sets --------------------------------------------------------------------------------------------------------

    def _find_sets(self) -> None:
        config_maps = self._world.config_maps
        names = list(sets_of(config_maps.all(), self._named, self._deployment_name))
        if config_maps.denied:  # The named one may be readable all the same, or the environment tells.
            names = [self._named]
        for name in self._sets.keys() - set(names):
            log.info("%s: no set of this controller any more: %s", name, self._why_none(name))
            self.metrics.forget(name)
        self._sets = {name: self._sets.get(name) or self._made(name) for name in names}

    def _why_none(self, name: str) -> str:
        config_maps = self._world.config_maps
        if config_maps.denied:
            return f"ConfigMaps may not be listed, and only {self._named} is kept without that. Its DaemonSet stays"
        if config_maps.complete and config_maps.get(name) is None:
            return f"its ConfigMap is gone; its DaemonSet goes in {_ABSENCE:.0f} s"
        return "it bears another label"

    def _made(self, name: str) -> tuple[Keeper, Judge]:
        image_set = ImageSet(self._namespace, name, self._deployment_name)
        environment = self._environment if name == self._named else {}
        refresher = Refresher(self._world, image_set, self._asker)
        keeper = Keeper(self._world, image_set, environment, functools.partial(self._claim, name), refresher)
        return keeper, Judge(self._world, keeper)

    def _claim(self, by: str, settings: Settings) -> str:
        """The set that has the DaemonSet that the settings of another one name, too; empty where there is none.

        It is the one that the DaemonSet is of, whatever its settings have become, and of two that only wish for it the
        first: so neither the order in which they came nor a restart makes a difference.
        """
        where = (settings.namespace, settings.daemonset_name)
        live = self._world.cached.get("DaemonSet", settings.daemonset_name, settings.namespace)
        of = set_of(live) if live else None
        holder = of.config_map_name if of and of.namespace == self._namespace else ""
        if holder in self._sets or IMAGE_SET in _labels(self._world.config_maps.get(holder)):
            return "" if holder == by else holder
        before = itertools.takewhile(lambda name: name != by, self._sets)
        wished = {name: self._sets[name][0].settings for name in before}
        return next((name for name, s in wished.items() if s and (s.namespace, s.daemonset_name) == where), "")

    def _remove_absent(self) -> float:
        """Remove the DaemonSets whose ConfigMap was taken away; when there may be more to do."""
        if not self._world.config_maps.complete:
            return float("inf")
        now = self._clock.monotonic()
        orphans = {metadata(d)["uid"]: d for d in self._world.daemonsets() if self._is_orphan(d)}
        self._absent = {uid: self._absent.get(uid, now) for uid in orphans}
        for uid, since in list(self._absent.items()):
            if now - since >= _ABSENCE:
                try:
                    self._remove_orphan(orphans[uid])
                except ApiError as error:
                    self._world.failed(error)
                self._absent[uid] = now
        return min((since + _ABSENCE for since in self._absent.values()), default=float("inf"))

    def _is_orphan(self, daemonset: Object) -> bool:
        """Whether this controller kept it, and its ConfigMap is gone."""
        of = set_of(daemonset)
        kept = is_ours(daemonset) and (of.namespace, of.deployment_name) == (self._namespace, self._deployment_name)
        gone = of.config_map_name and self._world.config_maps.get(of.config_map_name) is None
        return bool(kept and gone and not metadata(daemonset).get("deletionTimestamp"))

    def _remove_orphan(self, daemonset: Object) -> None:
        name = set_of(daemonset).config_map_name
        if self._world.cluster.get("ConfigMap", name, self._namespace) is None:
            remove(self._world, daemonset, f"ConfigMap {self._namespace}/{name} was taken away")

    # --- what wakes --------------------------------------------------------------------------------------------------

    def _woken(self, kind: str, before: Object | None, after: Object | None) -> None:
        """A cache changed; called by its watch."""
        if kind in ("ConfigMap", "DaemonSet") and (after is None or _substance(before) != _substance(after)):
            for keeper, _judge in list(self._sets.values()):
                keeper.wake()
            if self._woken_at is None:
                self._woken_at = self._clock.monotonic()
            self._wake.set()
        self._wake_judges()

    def _wake_judges(self) -> None:
        for _keeper, judge in list(self._sets.values()):
            judge.wake()
        self._wake_judge.set()

    def _questions(self) -> dict[str, Question]:
        """What all sets want to know of registries; each tag is there once."""
        found: dict[str, Question] = {}
        for keeper, _judge in list(self._sets.values()):
            settings, view = keeper.settings, keeper.view
            if settings:
                for image, question in question_of(settings, view.report if view else None).items():
                    found[image] = found[image] | question if image in found else question
        return found

    def _is_named(self) -> bool:
        """Whether it is known which ConfigMap is the main one.

        Without a name in the environment it is the one that the controller's own Deployment takes it from. An error
        tells nothing of that, and the question is asked again; but for a missing right, with which it would never end.
        """
        if not self._named:
            try:
                deployment = self._world.cluster.get("Deployment", self._deployment_name, self._namespace)
            except ApiError as error:
                self._world.failed(error)
                if not error.forbidden:
                    return False
                deployment = None
            self._named = (config_map_of(deployment) if deployment else "") or CONFIG_MAP_NAME
        return True


def _labels(obj: Object | None) -> Mapping[str, str]:
    return metadata(obj or {}).get("labels") or {}


def _substance(obj: Object | None) -> tuple[object, ...] | None:
    """What a pass looks at: all but status, the verdict that is told there, and the server's own bookkeeping."""
    if obj is None:
        return None
    data = obj["metadata"]
    annotations = {key: text for key, text in (data.get("annotations") or {}).items() if key != STATUS}
    kept = ("uid", "generation", "labels", "ownerReferences", "deletionTimestamp", "finalizers")
    return (*(data.get(key) for key in kept), annotations, obj.get("data"))
