# SPDX-License-Identifier: GPL-3.0-or-later
"""What all sets of a controller share: the API, the caches, the rights, and what is told."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Counter

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import (
    RESOURCES,
    ApiError,
    Cluster,
    grant,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import is_openshift
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import DAEMONSET
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import is_adoptable
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import (
    Object,
    Shared,
    node_slimmer,
    pod_slimmer,
)
from controller.clock import Clock
from controller.metrics import Metrics
from controller.recorder import Recorder
from controller.slim import slim_config_map, slim_daemonset
from controller.watches import EventWatch, Watch

log = logging.getLogger("image-puller")

_MOMENT = 0.05
_SAY_AGAIN = 60.0  # Seconds between two lines on an API server that does not answer.
_RIGHTS = 600.0  # Seconds until a right that is missing is asked for again.
_MENDED = 1800.0  # Seconds after which a right that nobody has missed is taken for given; longer than any such pause.
_COSTS = {
    "ConfigMap": "the settings are those of the process's environment, and a change needs a restart of the pod",
    "DaemonSet": "the DaemonSet is looked at once a minute",
    "Pod": "nothing is known of the images on the nodes: there is no verdict, and no roll node by node",
    "Node": "the nodes are inferred from the cache's pods",
    "Event": "what is being pulled is known only once the pods' statuses tell",
}
_DEPLOYMENT = 600.0  # Seconds that a Deployment is believed to be what it was.
Woken = Callable[[str, Object | None, Object | None], None]


class Scope:
    """The caches of one namespace in which sets have their DaemonSets."""

    def __init__(self, make: Callable[..., Any], namespace: str, share: Shared, clock: Clock) -> None:
        self._clock = clock
        self.daemonsets: Watch = make(Watch, "DaemonSet", namespace, slim=slim_daemonset)
        self.pods: Watch = make(Watch, "Pod", namespace, slim=pod_slimmer(share), labels=self._labels)
        self.events: EventWatch = make(EventWatch, "Event", namespace)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (self.daemonsets, self.pods, self.events)

    def _labels(self) -> str:
        """Which pods are looked at: those with our label, and all where a DaemonSet is adopted whose pods lack it."""
        while not self.daemonsets.known:
            self._clock.sleep(_MOMENT)
        selectors = [d["spec"]["selector"].get("matchLabels") or {} for d in self.daemonsets.all() if is_adoptable(d)]
        return DAEMONSET if all(DAEMONSET in selector for selector in selectors) else ""

    def forget_told(self) -> None:
        """Drop what was told of pods all of whose containers run, and of what is gone: statuses tell more by now."""
        pods = (pod["metadata"]["uid"] for pod in self.pods.all() if not _all_run(pod))
        self.events.told.forget_others([d["metadata"]["uid"] for d in self.daemonsets.all()], pods)


def _all_run(pod: Object) -> bool:
    statuses = pod["status"].get("containerStatuses") or ()
    return len(statuses) == len(pod["spec"]["containers"]) and all("running" in s.get("state", {}) for s in statuses)


class Cached(Cluster):
    """The same cluster, asked only for what no cache knows; before anything is done the cluster itself is asked."""

    def __init__(self, cluster: Cluster, clock: Clock, watch: Callable[[str, str | None], Watch | None]) -> None:
        super().__init__(cluster.client)
        self._clock = clock
        self._watch = watch
        self._deployments: dict[tuple[str, str | None], tuple[float, Object | ApiError | None]] = {}

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """One object as it is kept; None where there is none."""
        if kind == "Deployment":
            return self._get_deployment(name, namespace)
        watch = self._watch(kind, namespace)
        return watch.get(name) if watch and watch.complete else super().get(kind, name, namespace)

    def renew(self) -> None:
        """Ask for Deployments anew: something differs."""
        self._deployments.clear()

    def _get_deployment(self, name: str, namespace: str | None) -> Object | None:
        now = self._clock.monotonic()
        at, answer = self._deployments.get((name, namespace), (float("-inf"), None))
        if now - at > _DEPLOYMENT:
            try:
                answer = super().get("Deployment", name, namespace)
            except ApiError as error:
                if not error.forbidden:
                    raise
                answer = error
            self._deployments[name, namespace] = (now, answer)
        if isinstance(answer, ApiError):
            raise answer
        return answer


class Surroundings:
    """What controller and operator have in common: the API, its caches, and what is told of both.

    :param api_errors: a counter with the labels verb and status.
    :param woken: told of each change in a cache, by kind.
    """

    costs: Mapping[str, str] = {}  # What it costs where objects of a kind may not be listed.

    def __init__(self, cluster: Cluster, clock: Clock, api_errors: Counter, woken: Woken) -> None:
        self.cluster = cluster
        self.clock = clock
        self.recorder = Recorder(cluster, clock, self.failed)
        self._api_errors = api_errors
        self._woken = woken
        self._said: dict[str, str] = {}
        self._missed: dict[str, float] = {}  # When a right was last found missing, by what it was asked for.
        self._said_at = float("-inf")
        self._openshift: bool | None = None

    def openshift(self) -> bool:
        """Whether the cluster is OpenShift; asked once."""
        if self._openshift is None:
            self._openshift = is_openshift(self.cluster)
        return self._openshift

    def heard(self, kind: str, namespace: str | None) -> None:
        """Called with each change in a cache, before others are woken."""

    def failed(self, error: ApiError, kind: str = "") -> None:
        """Count an error of the API, and say once which right is missing; again where it was there meanwhile.

        :param kind: what a watch was for; so what it costs is said, too.
        """
        if error.status != 410:
            self._api_errors.labels(error.verb or "get", str(error.status)).inc()
        if error.forbidden:
            now = self.clock.monotonic()
            if now - self._missed.get(error.message, now) > _MENDED:
                self.say(error.message, "")
            self._missed[error.message] = now
            cost = "changes are seen once a minute" if error.verb == "watch" else self.costs.get(kind)
            self.say(error.message, f"{error}. Until then {cost}" if kind and cost else str(error))
        elif error.status != 410 and self.clock.monotonic() - self._said_at > _SAY_AGAIN:
            self._said_at = self.clock.monotonic()
            log.warning("%s", error)

    def say(self, topic: str, text: str, level: int = logging.WARNING) -> None:
        """Log a state when it changes, not each time that it is seen."""
        if self._said.get(topic, "") != text:
            self._said[topic] = text
            if text:
                log.log(level, "%s", text)

    def watch(self, type_: type[Watch], kind: str, namespace: str | None, **named: Any) -> Any:
        """A cache of this type, to be started."""

        def changed(before: Object | None, after: Object | None) -> None:
            self.heard(kind, namespace)
            self._woken(kind, before, after)

        failed = functools.partial(self.failed, kind=kind)
        return type_(self.cluster, kind, namespace, changed=changed, failed=failed, clock=self.clock, **named)


class World(Surroundings):
    """The cluster as the controller sees it."""

    costs = _COSTS

    def __init__(self, cluster: Cluster, clock: Clock, metrics: Metrics, *, namespace: str, woken: Woken) -> None:
        super().__init__(cluster, clock, metrics.api_errors, woken)
        self.metrics = metrics
        self.namespace = namespace
        self.config_maps: Watch = self.watch(Watch, "ConfigMap", namespace, slim=slim_config_map)
        self.cached = Cached(cluster, clock, self._watch)
        self._share = Shared()
        self.nodes: Watch = self.watch(Watch, "Node", None, slim=node_slimmer(self._share))
        self._scopes: dict[str, Scope] = {}
        self._rights: dict[tuple[str, str, str], tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to watch what every set needs."""
        self.config_maps.start()
        self.nodes.start()
        self.scope(self.namespace)

    def scope(self, namespace: str) -> Scope:
        """The caches of a namespace, begun when they are asked for the first time."""
        with self._lock:
            if namespace not in self._scopes:
                self._scopes[namespace] = Scope(self.watch, namespace, self._share, self.clock)
                for watch in self._scopes[namespace].watches:
                    watch.start()
            return self._scopes[namespace]

    def daemonsets(self) -> list[Object]:
        """Those of each namespace in which a set has or had its own since the process began."""
        with self._lock:
            scopes = list(self._scopes.values())
        return [daemonset for scope in scopes for daemonset in scope.daemonsets.all()]

    @property
    def watches(self) -> list[Watch]:
        """All of them."""
        with self._lock:
            return [self.config_maps, self.nodes, *(w for scope in self._scopes.values() for w in scope.watches)]

    def tidy(self) -> None:
        """Drop what nobody will ask for any more."""
        with self._lock:
            scopes = list(self._scopes.values())
        for scope in scopes:
            scope.forget_told()

    def may_delete_pods(self, namespace: str) -> bool:
        """Whether a roll can be ours."""
        return self._may("delete", "Pod", namespace, "the DaemonSet controller rolls changes out")

    def may_patch_daemonsets(self, namespace: str) -> bool:
        """Whether a DaemonSet can be corrected; else it can only be deleted and created."""
        cost = (
            "a change of the settings deletes the DaemonSet and creates it anew, on all nodes at once, what others "
            "change in it is not put right, and the verdict is not written on it"
        )
        return self._may("patch", "DaemonSet", namespace, cost)

    def _may(self, verb: str, kind: str, namespace: str, cost: str) -> bool:
        """Whether there is a right; one that is missing is told with its cost, and asked for again after a while."""
        now, right = self.clock.monotonic(), (verb, kind, namespace)
        asked, allowed = self._rights.get(right, (float("-inf"), False))
        if allowed or now - asked <= _RIGHTS:
            return allowed
        resource = RESOURCES[kind]
        attributes = {"namespace": namespace, "verb": verb, "group": resource.group, "resource": resource.plural}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            allowed = bool((self.cluster.create(review).get("status") or {}).get("allowed"))
        except ApiError as error:
            if not error.forbidden:
                raise
            allowed = True  # Who may not ask finds out.
        self._rights[right] = (now, allowed)
        lacks = f"the right to {verb} {kind}s in {namespace} is missing: {cost}. {grant(kind, [verb], namespace)}"
        self.say(" ".join(right), "" if allowed else lacks)
        return allowed

    def failed(self, error: ApiError, kind: str = "") -> None:
        """The same; a right that is gone is asked for anew."""
        if error.forbidden and error.verb in ("delete", "create", "patch"):
            self._rights.clear()
        super().failed(error, kind)

    def heard(self, kind: str, namespace: str | None) -> None:
        """Which pods are looked at depends on the DaemonSets."""
        if kind == "DaemonSet" and namespace in self._scopes:
            self._scopes[namespace].pods.look_again()

    def _watch(self, kind: str, namespace: str | None) -> Watch | None:
        if kind == "ConfigMap" and namespace == self.namespace:
            return self.config_maps
        if kind == "DaemonSet" and namespace:
            return self.scope(namespace).daemonsets
        return None
