# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator: keeps for the ruling resource of each namespace what it asks for, and tells in its status what is.

Level-triggered like the controller. What is kept of the objects only tells that one has changed; each pass reads them
from the API. So little is held for each namespace, and a cache that lags never leads to a write.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import takeover
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import (
    ApiError,
    Change,
    Cluster,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import reference_to
from ansible_collections.kubecache.image_puller.plugins.module_utils.deployment import controller_trouble, is_available
from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import secrets_of, sets_of, settings_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.guard import Guard, show_time
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import read_published
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import Installation, adopt_selector
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    IMAGE_SET,
    KEPT,
    MANAGED_BY,
    MANAGER,
    STATUS,
    describe,
    is_ours,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.operated import other_csv, other_deployment
from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import (
    KNOWN_DEPLOYMENTS,
    NAME,
    served_by_che,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    KIND,
    Asked,
    Refusal,
    Seen,
    is_foreign,
    merge_patch,
    objects_of,
    read_resource,
    ruling,
    status_of,
    superseded,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.clock import Clock, Pulse, jittered
from controller.digest import Told
from controller.lease import Lease
from controller.metrics import OperatorMetrics
from controller.watches import Watch
from controller.world import Surroundings

log = logging.getLogger("image-puller")

_KEPT = ("ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Deployment")
_TICK, _STUCK = 10.0, 120.0
_LOOP, _LEASE = "the loop", "the thread of the Lease"
_RESYNC = 600.0  # Seconds until a namespace is looked at without a cause.
_RETRY = (1.0, 60.0)  # First and longest pause after an error.
_PASSING = 2  # Failures in a row of which the status does not tell yet: a conflict, an API server that starts anew.
_STARTING = 2.0  # Seconds until a controller that is not available is first looked at again; its watch tells more.
_STOPPING = 6.0  # Seconds that another controller has to end: other namespaces wait meanwhile, and it is tried again.
_ASK_AGAIN = 600.0  # Seconds until it is asked again whether OLM is there.


def watched(text: str) -> tuple[str | None, ...]:
    """The namespaces to serve as WATCH_NAMESPACE names them: one, several with commas; (None,): all."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    return names or (None,)


@dataclass
class _Served:
    """What is known of one namespace that has a resource."""

    keep_at: float = 0.0
    tell_at: float = 0.0
    failures: int = 0
    looks: int = 0  # At a controller that is not available.
    seen: Seen = field(default_factory=Seen)
    guard: Guard = field(default_factory=Guard)
    written: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # By uid: the status sent, and the answer.


class Operator:
    """Serves the resources of some namespaces, or of all.

    :param namespaces: (None,) for all.
    :param identity: tells this process from others that want the same Lease.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespaces: Sequence[str | None],
        *,
        own_namespace: str,
        identity: str,
        clock: Clock | None = None,
    ) -> None:
        self.metrics = OperatorMetrics()
        self._cluster = cluster
        self._clock = clock or Clock()
        self._around = Surroundings(cluster, self._clock, self.metrics.api_errors, self._woken)
        self._own_namespace = own_namespace
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._served: dict[str, _Served] = {}
        self._pulse = Pulse(self._clock, _LOOP, _LEASE, most=_STUCK)
        # When it was last found that OLM is not there, or not to be asked in a namespace.
        self._olm_at: dict[str | None, float] = {}
        self._resources = [self._watch(KIND, namespace) for namespace in namespaces]
        self._daemonsets = [self._watch("DaemonSet", namespace) for namespace in namespaces]
        self._kept = {kind: [self._watch(kind, namespace) for namespace in namespaces] for kind in _KEPT}
        self.lease = Lease(
            cluster,
            self._clock,
            namespace=own_namespace,
            name=NAME,
            identity=identity,
            turned=self._wake.set,
            failed=self._around.failed,
            beat=lambda: self._pulse.beat(_LEASE),
        )

    # --- what the probes ask -----------------------------------------------------------------------------------------

    def trouble(self) -> str:
        """Why the process should be restarted; empty while it serves resources, and tries for the Lease."""
        return self._pulse.trouble()

    def unready(self) -> str:
        """Why the operator does not do its work yet; one that stands by for another is ready."""
        empty = sorted({f"{watch.kind}s" for watch in self._watches() if not watch.known})
        return f"not read yet: {', '.join(empty)}" if empty else ""

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the process ends."""
        for watch in self._watches():
            watch.start()
        self.lease.start()
        while True:
            self._pulse.beat(_LOOP)
            self._wake.clear()
            due = self._pass() if self.lease.held and not self.unready() else float("inf")
            self._clock.wait(self._wake, min(_TICK, due - self._clock.monotonic()))

    def _pass(self) -> float:
        """Serve each namespace for which something is due; when the next one is."""
        with self._lock:
            served = dict(self._served)
        due = float("inf")
        for namespace, state in served.items():
            if self.lease.held and min(state.keep_at, state.tell_at) <= self._clock.monotonic():
                self._pulse.beat(_LOOP)
                with self.metrics.passes.time():
                    self._serve(namespace, state)
            due = min(due, state.keep_at, state.tell_at)
        self.metrics.namespaces.set(len(served))
        self._around.recorder.flush()
        return due

    def _serve(self, namespace: str, state: _Served) -> None:
        """One pass over one namespace. No error ends it: it is said and tried again later."""
        now = self._clock.monotonic()
        keeping = state.keep_at <= now
        if keeping:
            state.keep_at = now + jittered(_RESYNC)
        state.tell_at = float("inf")
        resources = self._resources_of(namespace)
        ruler = ruling(resources)
        if ruler is None:
            with self._lock:  # What a cache has heard by now is in it before this is taken to say so.
                if ruling(self._resources_of(namespace)) is None:
                    self._served.pop(namespace, None)
            self._say_error(namespace, "")
            return

        waiting = [r for r in resources if r is not ruler and not metadata(r).get("deletionTimestamp")]

        def keep() -> None:
            self._again(state, now + self._keep(ruler, waiting, state))

        why = self._why_not(namespace, keep) if keeping else ""
        if not why or state.failures >= _PASSING:
            if why:
                message = why.rstrip(".") + ". It is tried again with growing pauses"
                state.seen = replace(state.seen, image="", refusal=Refusal("ReconcileError", message))
            why = self._why_not(namespace, lambda: self._tell(ruler, resources, state)) or why
        if why:
            self._failed(namespace, state, why)
        elif keeping:
            state.failures = 0
            self._say_error(namespace, "")

    def _resources_of(self, namespace: str) -> list[Object]:
        return [r for watch in self._resources for r in watch.all() if metadata(r)["namespace"] == namespace]

    def _again(self, state: _Served, at: float) -> None:
        """Look again at that time; or at once, where a change has come meanwhile."""
        with self._lock:
            state.keep_at = min(state.keep_at, at)

    def _why_not(self, namespace: str, do: Callable[[], None]) -> str:
        """Do it; why that was not possible, empty where it was."""
        try:
            do()
        except RuntimeError as error:  # The known controller could not be stopped so that its DaemonSet stays.
            return str(error)
        except ApiError as error:
            self._around.failed(error)
            return str(error)
        except Exception:
            log.exception("%s: unexpected error; trying again", namespace)
            return "unexpected error, which the operator's log has"
        return ""

    def _failed(self, namespace: str, state: _Served, why: str) -> None:
        first, longest = _RETRY
        self._again(state, self._clock.monotonic() + jittered(min(longest, first * 2.0**state.failures)))
        state.failures = min(state.failures + 1, 10)
        self.metrics.errors.inc()
        self._say_error(namespace, f"{namespace}: {why} (tried again with growing pauses)")

    def _say_error(self, namespace: str, text: str) -> None:
        self._around.say(f"{namespace} error", text, logging.ERROR)

    # --- keeping -----------------------------------------------------------------------------------------------------

    def _keep(self, resource: Object, waiting: Sequence[Object], state: _Served) -> float:
        """Bring what the resource asks for to be; seconds until it should be looked at again."""
        asked = read_resource(resource, openshift=self._around.openshift())
        state.seen = Seen(
            image=asked.installation.image,
            problems=tuple(map(str, asked.problems)),
            notes=asked.notes,
            settings=asked.settings,
        )
        try:
            refusal = self._other_operator(resource) or _invalid(asked)
            if refusal is None and asked.settings is not None:
                refusal, pause = self._keep_objects(resource, waiting, asked, asked.settings, state)
                state.seen = replace(state.seen, refusal=refusal)
                return pause
        except ApiError as error:
            if not error.forbidden:
                raise
            self._around.failed(error)
            refusal = _lacks(error)
        state.seen = replace(state.seen, image="", refusal=refusal)
        return _RETRY[1] if refusal and refusal.reason != "InvalidSettings" else _RESYNC

    def _keep_objects(
        self, resource: Object, waiting: Sequence[Object], asked: Asked, settings: Settings, state: _Served
    ) -> tuple[Refusal | None, float]:
        installation = replace(asked.installation, pull_secrets=self._secrets(resource, asked.installation))
        wanted = objects_of(resource, settings, installation, waiting)
        live = [self._cluster.get(obj["kind"], metadata(obj)["name"], metadata(obj)["namespace"]) for obj in wanted]
        if foreign := next((obj for obj in live if obj is not None and is_foreign(obj)), None):
            return _foreign(foreign), _RETRY[1]
        now, template = self._clock.now(), f"{metadata(resource)['uid']} {metadata(resource).get('generation')}"
        if until := state.guard.paused_until("patch", now, template):
            why = f"putting right is paused until {show_time(until)}, because {state.guard.because('patch')}"
            state.seen = replace(state.seen, paused=f"{why}: somebody undoes it")
            return None, (until - now).total_seconds()
        if (running := live[-1]) is not None and not is_ours(running):
            live[-1] = self._stop_known(running)
        done = [change for change in map(self._keep_one, wanted, live) if change]
        done += self._remove_former(resource, wanted)
        if done:
            state.guard = state.guard.after("patch", now, template)
            told = "; ".join(done)
            log.info("%s: %s", describe(resource), told)
            self._around.recorder.tell(lambda: resource, Told("Normal", "Kept", told))
        return None, self._look_at_controller(wanted[-1], state)

    def _secrets(self, resource: Object, installation: Installation) -> tuple[str, ...]:
        """The pull secrets of the sets that the controller keeps besides the resource's own: those of groups."""
        found, _version = self._cluster.list("ConfigMap", metadata(resource)["namespace"], labels=IMAGE_SET)
        sets = sets_of(found, installation.config_map_name, installation.deployment_name)
        return secrets_of(settings_of(c for name, c in sets.items() if name != installation.config_map_name))

    def _stop_known(self, deployment: Object) -> Object | None:
        """Stop the known controller so that its DaemonSet stays: another operator made it for this very resource."""
        changes: list[Change] = []
        warnings: list[str] = []
        takeover.stop(self._cluster, deployment, changes, warnings, patience=_STOPPING)
        log.info("%s is taken over: %s", describe(deployment), "; ".join(f"{c.action} {c.name}" for c in changes))
        for warning in warnings:
            self._around.say(warning, warning)
        return self._cluster.get("Deployment", metadata(deployment)["name"], metadata(deployment)["namespace"])

    def _keep_one(self, wanted: Object, live: Object | None) -> str:
        """What was done to one object; empty where it is as it should be."""
        if live is not None and wanted["kind"] == "Deployment":
            wanted = adopt_selector(wanted, live)
        kept = (metadata(live or {}).get("annotations") or {}).get(KEPT)
        if kept is not None:  # Which settings Ansible took over from another implementation.
            wanted = {**wanted, "metadata": {**metadata(wanted), "annotations": {KEPT: kept}}}
        change = self._cluster.keep(wanted, live)
        self._around.say(f"{change.name} note", "; ".join(change.notes))
        if not change.changed:
            return ""
        self.metrics.actions.labels(change.kind, change.action).inc()
        return f"{change.action} {change.name}" + (f" ({', '.join(change.fields[:3])})" if change.fields else "")

    def _remove_former(self, resource: Object, wanted: Sequence[Object]) -> list[str]:
        """What this resource owns under names that it had in its spec before."""
        names = {(obj["kind"], metadata(obj)["name"]) for obj in wanted}
        namespace, uid = metadata(resource)["namespace"], metadata(resource)["uid"]
        former = [
            (kind, metadata(obj))
            for kind, watches in self._kept.items()
            for obj in (obj for watch in watches for obj in watch.all())
            if metadata(obj)["namespace"] == namespace and uid in obj["owners"]
            if (kind, metadata(obj)["name"]) not in names
        ]
        if former:
            (config_map,) = (metadata(obj)["name"] for obj in wanted if obj["kind"] == "ConfigMap")
            self._hand_over(namespace, config_map, {data["uid"] for _kind, data in former})
        removed = []
        for kind, data in former:
            if self._cluster.delete(kind, data["name"], namespace, uid=data["uid"]):
                self.metrics.actions.labels(kind, "deleted").inc()
                removed.append(f"deleted {kind} {namespace}/{data['name']}")
        return removed

    def _hand_over(self, namespace: str, config_map: str, going: Collection[str]) -> None:
        """Let DaemonSets all of whose owners go have one that stays, until the controller adopts them.

        :param going: uids.
        """
        owner = self._cluster.get("ConfigMap", config_map, namespace)
        if owner is None:
            return
        for daemonset in self._cluster.list("DaemonSet", namespace, labels=f"{MANAGED_BY}={MANAGER}")[0]:
            owners = metadata(daemonset).get("ownerReferences") or ()
            if owners and all(each["uid"] in going for each in owners):
                patch = {"metadata": {"uid": _uid(daemonset), "ownerReferences": [*owners, reference_to(owner)]}}
                self._cluster.merge("DaemonSet", metadata(daemonset)["name"], namespace, patch, manager=MANAGER)

    def _look_at_controller(self, wanted: Object, state: _Served) -> float:
        """Note what keeps the controller from running; seconds until it should be looked at again."""
        data = metadata(wanted)
        deployment = self._cluster.get("Deployment", data["name"], data["namespace"])
        if deployment is None or is_available(deployment):
            state.looks = 0
            return _RESYNC
        trouble, _final = controller_trouble(self._cluster, deployment)
        state.seen = replace(state.seen, trouble=f"{describe(wanted)}: {trouble}" if trouble else "")
        state.looks = min(state.looks + 1, 10)
        return min(_STARTING * 2.0 ** (state.looks - 1), _RESYNC)

    # --- others ------------------------------------------------------------------------------------------------------

    def _other_operator(self, resource: Object) -> Refusal | None:
        """Whether somebody else serves this resource: then there is nothing to be done but to say so."""
        if refusal := served_by_che(resource):
            return refusal
        namespace = metadata(resource)["namespace"]
        # One of ours in the namespace serves it, too, and goes before one that serves all.
        names = KNOWN_DEPLOYMENTS if namespace == self._own_namespace else (*KNOWN_DEPLOYMENTS, NAME)
        return other_deployment(self._cluster, namespace, names) or self._other_csv(namespace)

    def _other_csv(self, namespace: str) -> Refusal | None:
        """Whether OLM has installed the known operator, where there is OLM and it may be asked."""
        found_at = max(self._olm_at.get(of, float("-inf")) for of in (None, namespace))
        if self._clock.monotonic() - found_at < _ASK_AGAIN:
            return None
        found, unknown = None, ""
        try:
            found = other_csv(self._cluster, namespace)
        except ApiError as error:
            if error.status != 404 and not error.forbidden:
                raise
            self._olm_at[namespace if error.forbidden else None] = self._clock.monotonic()
            if error.forbidden:
                unknown = f"whether OLM has another operator here is not known: {error}"
        self._around.say(f"{namespace} olm", unknown)
        return found

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, ruler: Object, resources: Iterable[Object], state: _Served) -> None:
        """Write the status of all resources of a namespace, where it differs."""
        name = state.seen.settings.daemonset_name if state.seen.settings else ""
        found = [d for watch in self._daemonsets for d in watch.all() if metadata(d)["name"] == name]
        namespace = metadata(ruler)["namespace"]
        daemonset = next((d for d in found if metadata(d)["namespace"] == namespace), None)
        self._around.say(f"{namespace} published", read_published(daemonset or {})[1])
        if state.seen.refusal is None and (denied := self._daemonsets_denied(namespace)):
            state.seen = replace(state.seen, image="", refusal=_lacks(denied))
        state.written = {uid: told for uid, told in state.written.items() if uid in map(_uid, resources)}
        for resource in resources:
            if metadata(resource).get("deletionTimestamp"):
                continue
            if resource is ruler:
                self._write_status(resource, replace(state.seen, daemonset=daemonset), state)
            else:
                self._write_status(resource, Seen(refusal=superseded(metadata(ruler)["name"])), state)

    def _daemonsets_denied(self, namespace: str) -> ApiError | None:
        """Why verdicts may not be read."""
        found = (watch.denied for watch in self._daemonsets if watch.namespace in (None, namespace))
        return next(filter(None, found), None)

    def _write_status(self, resource: Object, seen: Seen, state: _Served) -> None:
        """Write it unless it is there, or what is there is all that the cluster's definition keeps of it."""
        data = metadata(resource)
        sent, answer = state.written.get(data["uid"], ({}, {}))
        lags = answer and int(data["resourceVersion"]) < int(metadata(answer)["resourceVersion"])
        before = (answer if lags else resource).get("status") or {}
        if answer and before == (answer.get("status") or {}):
            before = sent
        status = status_of({**resource, "status": before}, seen, show_time(self._clock.now()))
        patch = merge_patch(before, status)
        if all(name in before and before[name] == value for name, value in patch.items()):
            return
        try:
            name, manager = f"{data['name']}/status", f"{MANAGER}.status"
            now = self._cluster.merge(KIND, name, data["namespace"], {"status": patch}, manager=manager)
        except ApiError as error:
            if error.status == 404:  # It has just gone.
                return
            raise
        kept = {key: metadata(now)[key] for key in ("uid", "resourceVersion")}
        state.written[data["uid"]] = (status, {"metadata": kept, "status": now.get("status")})
        self._tell_change(resource, before, status)

    def _tell_change(self, resource: Object, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """An Event where it turns ready or not, or is not for another reason."""
        was: Mapping[str, Any] = next((c for c in before.get("conditions") or () if c["type"] == "Ready"), {})
        ready = next(c for c in after["conditions"] if c["type"] == "Ready")
        if (was.get("status"), was.get("reason")) == (ready["status"], ready["reason"]):
            return
        bad = any(c["type"] == "Degraded" and c["status"] == "True" for c in after["conditions"])
        log.info("%s: %s: %s", describe(resource), ready["reason"], ready["message"])
        told = Told("Warning" if bad else "Normal", ready["reason"], ready["message"])
        self._around.recorder.tell(lambda: resource, told)

    # --- what wakes --------------------------------------------------------------------------------------------------

    def _watches(self) -> list[Watch]:
        return [*self._resources, *self._daemonsets, *(w for watches in self._kept.values() for w in watches)]

    def _watch(self, kind: str, namespace: str | None) -> Watch:
        """Of all kinds but the resources only what is ours is watched: other namespaces cost nothing."""
        labels = "" if kind == KIND else f"{MANAGED_BY}={MANAGER}"
        slim = {KIND: _slim_resource, "DaemonSet": _slim_daemonset}.get(kind, _slim)
        made: Watch = self._around.watch(Watch, kind, namespace, slim=slim, labels=lambda: labels)
        return made

    def _woken(self, kind: str, before: Object | None, after: Object | None) -> None:
        """A cache changed; called by its watch."""
        now = self._clock.monotonic()
        about = after or before
        with self._lock:
            if about is None:
                for state in self._served.values():
                    state.keep_at = now
            else:
                namespace = metadata(about)["namespace"]
                if kind == KIND and namespace not in self._served:
                    self._served = {**self._served, namespace: _Served()}
                if namespace in self._served:
                    _due(self._served[namespace], now, kind, before, after)
        self._wake.set()


def _due(state: _Served, now: float, kind: str, before: Object | None, after: Object | None) -> None:
    """What a change asks for: a DaemonSet's tells of images, anything else of what is kept."""
    if kind == "DaemonSet":
        state.tell_at = min(state.tell_at, now)
    elif kind != KIND or _wish(before) != _wish(after):
        state.keep_at = min(state.keep_at, now)
    else:
        state.tell_at = min(state.tell_at, now)  # Its status: ours, which is compared, or somebody else's.


def _wish(resource: Object | None) -> Any:
    """What of a resource somebody wrote; the rest is our own status."""
    data = metadata(resource or {})
    kept = ("uid", "generation", "labels", "ownerReferences", "deletionTimestamp")
    return resource and [data.get(key) for key in kept]


def _slim_resource(resource: Mapping[str, Any]) -> Object:
    data = {key: value for key, value in metadata(resource).items() if key not in ("managedFields", "annotations")}
    return {**resource, "metadata": data}


def _slim_daemonset(daemonset: Mapping[str, Any]) -> Object:
    data = metadata(daemonset)
    told = (data.get("annotations") or {}).get(STATUS)
    kept = {key: data.get(key) for key in ("name", "namespace", "uid", "generation")}
    return {"metadata": {**kept, "annotations": {STATUS: told} if told else {}}}


def _slim(obj: Mapping[str, Any]) -> Object:
    """Who an object is, whose it is, and a hash of the rest that tells that it has changed."""
    data = metadata(obj)
    told = {key: value for key, value in data.items() if key not in ("managedFields", "resourceVersion")}
    text = json.dumps({**obj, "metadata": told}, sort_keys=True)
    return {
        "metadata": {key: data[key] for key in ("name", "namespace", "uid")},
        "owners": [owner["uid"] for owner in data.get("ownerReferences") or ()],
        "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _uid(obj: Mapping[str, Any]) -> str:
    return str(metadata(obj)["uid"])


def _lacks(error: ApiError) -> Refusal:
    return Refusal("MissingRight", f"the operator lacks a right: {error}")


def _invalid(asked: Asked) -> Refusal | None:
    if asked.settings is not None:
        return None
    return Refusal("InvalidSettings", " ".join(["What runs stays.", *map(str, asked.problems)]))


def _foreign(found: Object) -> Refusal:
    field = {"ConfigMap": "configMapName", "Deployment": "deploymentName"}.get(found["kind"], "serviceAccountName")
    data = metadata(found)
    other = f"name another with spec.{field}" if found["kind"] not in ("Role", "RoleBinding") else "delete it"
    hand_over = f"kubectl label -n {data['namespace']} {found['kind'].lower()} {data['name']} {MANAGED_BY}={MANAGER}"
    return Refusal(
        "ForeignObject",
        f"{describe(found)} was made by somebody else, and nothing is changed. Remedy: {other}, or hand it over: "
        f"{hand_over}",
    )
