# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's loop: level-triggered, so that a watch's event only wakes it and each pass starts from what is."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import (
    ImageSet,
    carry_out,
    desired_daemonset,
    is_openshift,
    look,
    now,
    observe,
    read_owners,
    read_settings,
    remove_former_daemonsets,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import IMAGE_SET
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import decide
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    Reading,
    Settings,
    from_config_map,
)
from controller.metrics import Metrics

log = logging.getLogger("image-puller")

_TICK = 10.0  # Seconds; the loop shows that it moves at least as often.
_STUCK = 120.0  # Longer than any request may take.
_DELETING_PAUSE = 0.5
_RETRY = (1.0, 60.0)  # First and longest pause after an error.
_CHECK = 5.0  # First pause between health checks while the cache is not healthy; it doubles up to the interval.
_JITTER = 0.1


class Controller:
    """Keeps the DaemonSet of one ConfigMap.

    :param namespace: the pod's own.
    :param environment: of the process; where the settings come from when no ConfigMap may be read.
    """

    def __init__(
        self, cluster: Cluster, *, namespace: str, deployment_name: str, environment: Mapping[str, str]
    ) -> None:
        self.metrics = Metrics()
        self._cluster = cluster
        self._environment = environment
        self._names = ImageSet(namespace, environment.get("CONFIG_MAP_NAME", ""), deployment_name)
        self._wake = threading.Event()
        self._moved = time.monotonic()
        self._synced = False
        self._openshift: bool | None = None
        self._settings: Settings | None = None
        self._said: dict[str, str] = {}
        self._failures = 0
        self._retry_at = float("inf")
        self._check_at = 0.0
        self._check_pause = _CHECK

    # --- what the probes ask -----------------------------------------------------------------------------------------

    def trouble(self) -> str:
        """Why the process should be restarted; empty while its loop moves."""
        still = time.monotonic() - self._moved
        return f"the loop has not moved for {still:.0f} s" if still > _STUCK else ""

    def unready(self) -> str:
        """Why the controller does not do its work yet; empty once a pass has ended well."""
        return "" if self._synced else "no pass has ended without an error yet"

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the process ends."""
        self._find_config_map()
        for kind in ("ConfigMap", "DaemonSet"):
            threading.Thread(target=self._watch, args=(kind,), name=f"watch {kind}", daemon=True).start()
        self._wake.set()
        while True:
            moment = self._moved = time.monotonic()
            if self._wake.is_set() or moment >= self._retry_at:
                self._wake.clear()
                self._guarded(self._reconcile)
            elif moment >= self._check_at:
                self._guarded(self._check)
            due = min(self._retry_at, self._check_at) - time.monotonic()
            self._wake.wait(min(_TICK, max(0.0, due)))

    def _guarded(self, step: Callable[[], None]) -> None:
        """One step; no error ends the process, each is said, and tried again with a growing pause."""
        try:
            step()
        except _ComeBack as later:
            self._retry_at = time.monotonic() + later.pause
        except (ApiError, RuntimeError) as error:
            self._failed(str(error))
        except Exception:
            log.exception("unexpected error; trying again")
            self._failed("unexpected error")
        else:
            self._failures, self._retry_at, self._synced = 0, float("inf"), True
            self._say("error", "")
            self.metrics.last_sync.set_to_current_time()

    def _failed(self, why: str) -> None:
        self.metrics.errors.inc()
        first, longest = _RETRY
        pause = min(longest, first * 2**self._failures) * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._failures = min(self._failures + 1, 10)
        self._retry_at = time.monotonic() + pause
        self._check_at = max(self._check_at, self._retry_at + pause)
        self._say("error", f"{why} (tried again with growing pauses)", logging.ERROR)

    def _say(self, topic: str, text: str, level: int = logging.INFO) -> None:
        """Log a state when it changes, not each time that it is seen."""
        if self._said.get(topic, "") != text:
            self._said[topic] = text
            if text:
                log.log(level, "%s", text)

    # --- one pass ----------------------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        reading = self._read()
        if reading is None:
            where = f"{self._names.namespace}/{self._names.config_map_name}"
            self._settings = None
            self._say(
                "settings", f"ConfigMap {where} is not there: nothing is made, and what runs stays", logging.WARNING
            )
            return
        problems = "; ".join(str(problem) for problem in reading.problems)
        self.metrics.problems.set(len(reading.problems))
        if reading.settings is None:
            self._say("settings", f"the settings can't be used, and what runs stays: {problems}", logging.ERROR)
            return
        self._say("settings", f"entries of the settings are left out: {problems}" if problems else "", logging.ERROR)
        self._settings = reading.settings
        self._keep(reading.settings)

    def _keep(self, settings: Settings) -> None:
        if self._openshift is None:
            self._openshift = is_openshift(self._cluster)
        live = self._cluster.get("DaemonSet", settings.daemonset_name, settings.namespace)
        config_map, deployment = read_owners(self._cluster, self._names, live)
        desired = desired_daemonset(
            settings, self._names, live, config_map=config_map, deployment=deployment, openshift=self._openshift
        )
        guard, warning = Guard.read(config_map, now())
        self._say("guard", warning, logging.WARNING)
        observed = observe(self._cluster, settings, live)
        decision = decide(desired, observed, now=now(), guard=guard, max_unavailable=settings.max_unavailable)
        reasons = "; ".join(decision.reasons)
        if decision.action == "wait":
            self._say("decision", f"wait: {reasons}")
            raise _ComeBack(_DELETING_PAUSE)
        if decision.action in ("none", "refuse"):
            level = logging.ERROR if decision.action == "refuse" else logging.INFO
            self._say("decision", f"{decision.action}: {reasons}" if reasons else "", level)
        else:
            change = carry_out(self._cluster, decision, desired, live, image_set=self._names, config_map=config_map)
            self._said["decision"] = ""
            if change.changed:
                log.info("%s %s: %s", change.action, change.name, reasons)
                self.metrics.actions.labels(change.action).inc()
                self._check_pause, self._check_at = _CHECK, time.monotonic() + _CHECK
            self._say("admission", "; ".join(change.notes), logging.WARNING)
        for name in remove_former_daemonsets(self._cluster, self._names, settings):
            log.info("deleted %s: the settings name %s now", name, settings.daemonset_name)
            self.metrics.actions.labels("deleted").inc()

    def _check(self) -> None:
        """A health check: judge, tell, and set the time of the next; the pass before has mended what was to mend."""
        self._reconcile()
        interval = float(self._settings.caching_interval_hours) * 3600 if self._settings else 3600.0
        if self._settings is None:
            self._check_at = time.monotonic() + interval
            return
        settings = self._settings
        report = look(self._cluster, settings)
        self.metrics.report(report)
        cached, rows = sum(row.state == "cached" for row in report.counted), len(report.counted)
        told = f"{report.verdict}: {cached} of {rows} cached ({len(report.images)} images, {len(report.nodes)} nodes)"
        self._say("verdict", f"{told}. {' '.join(report.reasons)}".strip())
        self._check_pause = interval if report.verdict == "Healthy" else min(self._check_pause * 2, interval)
        self._check_at = time.monotonic() + self._check_pause * random.uniform(1 - _JITTER, 1)

    # --- where the settings come from --------------------------------------------------------------------------------

    def _find_config_map(self) -> None:
        """Without a name in the environment: the ConfigMap that the controller's own Deployment takes it from."""
        if self._names.config_map_name:
            return
        name = ""
        try:
            deployment = self._cluster.get("Deployment", self._names.deployment_name, self._names.namespace)
        except ApiError as error:
            log.warning("%s", error)
            deployment = None
        if deployment:
            for container in deployment["spec"]["template"]["spec"]["containers"]:
                for source in container.get("envFrom") or ():
                    name = name or (source.get("configMapRef") or {}).get("name", "")
        self._names = ImageSet(self._names.namespace, name or CONFIG_MAP_NAME, self._names.deployment_name)

    def _read(self) -> Reading | None:
        try:
            return read_settings(self._cluster, self._names)
        except ApiError as error:
            if not error.forbidden or "IMAGES" not in self._environment:
                raise
            self._say("source", f"{error}. The settings are taken from the environment of the process", logging.WARNING)
            return from_config_map(self._environment)

    # --- watches -----------------------------------------------------------------------------------------------------

    def _watch(self, kind: str) -> None:
        """Wake the loop when something of ours changes; whatever ends a watch, the next one begins with a pass."""
        seen: dict[str, Any] = {}
        failures = 0
        fields = f"metadata.name={self._names.config_map_name}" if kind == "ConfigMap" else ""
        while True:
            try:
                items, version = self._cluster.list(kind, self._names.namespace, fields=fields)
                seen = {item["metadata"]["name"]: _substance(item) for item in items}
                self._wake.set()
                for type_, obj in self._cluster.watch(kind, self._names.namespace, version, fields=fields):
                    failures = 0
                    if type_ != "BOOKMARK" and self._concerns(kind, obj):
                        name, substance = obj["metadata"]["name"], None if type_ == "DELETED" else _substance(obj)
                        if substance != seen.get(name):
                            seen[name] = substance
                            self._wake.set()
            except Exception as error:
                failures = min(failures + 1, 6)
                if not (isinstance(error, ApiError) and error.status == 410):
                    log.debug("watch of %ss ended: %s", kind, error)
                time.sleep(min(30.0, 0.25 * 2**failures) * random.uniform(1 - _JITTER, 1 + _JITTER))

    def _concerns(self, kind: str, obj: Mapping[str, Any]) -> bool:
        if kind == "ConfigMap":
            return True
        data = obj["metadata"]
        ours = (data.get("labels") or {}).get(IMAGE_SET) == self._names.config_map_name
        return ours or (self._settings is not None and data["name"] == self._settings.daemonset_name)


class _ComeBack(Exception):
    """The pass can't end yet, and nothing is wrong; ``pause`` in seconds."""

    def __init__(self, pause: float) -> None:
        super().__init__(pause)
        self.pause = pause


def _substance(obj: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a pass would look at: all but status and the server's own bookkeeping."""
    data = obj["metadata"]
    kept = ("uid", "generation", "labels", "annotations", "ownerReferences", "deletionTimestamp")
    return (*(data.get(key) for key in kept), obj.get("data"))
