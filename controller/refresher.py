# SPDX-License-Identifier: GPL-3.0-or-later
"""The refresh of one set's moved tags: looked at where it is judged, done where its DaemonSet is kept."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import strategy_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import ImageSet
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    REFRESH_OF,
    SETTLED,
    describe,
    metadata,
    some,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.refresh import (
    Refresh,
    Settled,
    Wanted,
    build_refresher,
    is_list_behind,
    look_at_digests,
    moving_images,
    next_refresh,
    refresher_name,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    IMAGE_VOLUME,
    REFRESH_DIGEST,
    REFRESH_NEVER,
    REFRESH_RESTART,
    Settings,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import Object
from controller.asker import Asker, Question, unanswered
from controller.clock import jittered
from controller.digest import Told
from controller.world import World

log = logging.getLogger("image-puller")


class Refresher:
    """Brings what the tags of one set stand for to its nodes."""

    def __init__(self, world: World, names: ImageSet, asker: Asker) -> None:
        self._world = world
        self._names = names
        self._asker = asker
        self._restart_due = float("inf")
        self._done: Refresh | None = None
        self._unnoticed: tuple[str, ...] = ()
        self._unanswered = ""

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(
        self,
        settings: Settings,
        live: Object,
        report: Report,
        nodes: Sequence[Object] | None,
        *,
        blocked: bool,
    ) -> Refresh:
        """What is to be done next for this DaemonSet; nothing where nothing can have moved, which costs little.

        :param blocked: another change is under way, or the rights are missing.
        """
        world = self._world
        scope = world.scope(settings.namespace)
        refresher = self._live(settings)
        restart = self._restarts(settings)
        digests = self._asker.digests if settings.refresh == REFRESH_DIGEST else {}
        self._warn(settings, live, report)
        self._tell_unanswered(settings, live, report)
        if refresher is None and not restart and not _has_moved(report, digests):
            return Refresh()
        now = world.clock.now()
        config_map = world.cached.get("ConfigMap", self._names.config_map_name, self._names.namespace)
        events = scope.events.told.of(metadata(refresher)["uid"], ()) if refresher else ()
        scene = look_at_digests(settings, live, refresher, scope.pods.all(), nodes, now, events=events)
        wanted = Wanted(digests, self._asker.asked, Settled.read(config_map, now), restart, blocked)
        return next_refresh(scene, settings, wanted, now, openshift=world.openshift())

    def _warn(self, settings: Settings, live: Object, report: Report) -> None:
        """Say of which images a moved tag is not noticed: once while it is the same ones, on however many nodes."""
        compared = settings.refresh == REFRESH_DIGEST
        names, what = unnoticed(settings, live, report, self._world.clock.now()) if compared else ((), "")
        if names != self._unnoticed:
            self._world.say(f"digests {settings.namespace}/{settings.daemonset_name}", what)
            self._unnoticed = names

    def _tell_unanswered(self, settings: Settings, live: Object, report: Report) -> None:
        """How many tags that nodes hold are unknown, as a metric; and an Event when the reasons for it change."""
        errors = self._asker.errors if settings.refresh == REFRESH_DIGEST else {}
        held = {row.image for row in report.rows if row.held and row.image in errors} if errors else set()
        unknown = [errors[image.image] for image in moving_images(settings) if image.image in held]
        self._world.metrics.tags_unknown.labels(self._names.config_map_name).set(len(unknown))
        why = unanswered(unknown)
        if why != self._unanswered:
            known = Told("Normal", "TagsKnown", "no registry leaves open any more what a tag stands for")
            told = Told("Warning", "TagsUnknown", why) if why else known
            self._world.recorder.tell(functools.partial(dict, live), told)
            self._unanswered = why

    def _live(self, settings: Settings) -> Object | None:
        name = refresher_name(settings.daemonset_name)
        found = self._world.scope(settings.namespace).daemonsets.get(name)
        return found if found and _is_of(found, settings) else None

    def _restarts(self, settings: Settings) -> bool:
        """Whether all tags are to be pulled anew, because it was asked for and an interval has passed."""
        now = self._world.clock.monotonic()
        if settings.refresh != REFRESH_RESTART or not moving_images(settings):
            self._restart_due = float("inf")
        elif self._restart_due == float("inf"):
            self._restart_due = now + jittered(_interval(settings))
        return now >= self._restart_due

    # --- doing -------------------------------------------------------------------------------------------------------

    def act(self, refresh: Refresh, settings: Settings, judged: Object, about: Callable[[], Object]) -> None:
        """Do it once, if the set's DaemonSet is still the one that was looked at; raises what the API answers."""
        if refresh.action == "none" or refresh is self._done:
            return
        cluster, namespace = self._world.cluster, settings.namespace
        live = cluster.get("DaemonSet", settings.daemonset_name, namespace)
        there = cluster.get("DaemonSet", refresher_name(settings.daemonset_name), namespace)
        same = ("uid", "generation", "deletionTimestamp")
        if live is None or any(live["metadata"].get(key) != judged["metadata"].get(key) for key in same):
            return
        if there is None and refresh.action == "delete":  # The cache will hear of it.
            return
        if there is not None and not _is_of(there, settings):
            remedy = "Remedy: choose another daemonset_name, or delete it if nobody needs it"
            name = f"refresh {namespace}/{settings.daemonset_name}"
            self._world.say(name, f"{describe(there)} is somebody else's, and moved tags are not refreshed. {remedy}")
            return
        getattr(self, f"_{refresh.action}")(refresh, settings, live, there)
        if refresh.action in ("apply", "delete") and (there is None or refresh.action == "delete"):
            type_ = "Warning" if refresh.given_up else "Normal"
            what = "RefreshStarted" if there is None else "RefreshGivenUp" if refresh.given_up else "RefreshFinished"
            self._world.recorder.tell(about, Told(type_, what, refresh.reason))
        log.info("%s: refresh: %s: %s", self._names.config_map_name, refresh.action, refresh.reason)
        self._done = refresh

    def _apply(self, refresh: Refresh, settings: Settings, live: Object, there: Object | None) -> None:
        if refresh.aim is None:
            return
        made = build_refresher(settings, live, refresh.aim, openshift=self._world.openshift())
        self._world.cluster.keep(made, there)
        self._restart_due = float("inf")

    def _exchange(self, refresh: Refresh, settings: Settings, live: Object, there: Object | None) -> None:
        for pod in refresh.pods:
            self._world.cluster.delete("Pod", pod.name, settings.namespace, uid=pod.uid)

    def _settle(self, refresh: Refresh, settings: Settings, live: Object, there: Object | None) -> None:
        if refresh.settled:
            text = {SETTLED: refresh.settled.annotation()}
            self._world.cluster.annotate("ConfigMap", self._names.config_map_name, self._names.namespace, text)

    def _ask(self, refresh: Refresh, settings: Settings, live: Object, there: Object | None) -> None:
        self._asker.hurry(refresh.ask)

    def _delete(self, refresh: Refresh, settings: Settings, live: Object, there: Object | None) -> None:
        if there is not None:
            data = there["metadata"]
            self._world.cluster.delete("DaemonSet", data["name"], data["namespace"], uid=data["uid"])
        self._asker.forget(refresh.given_up)


def question_of(settings: Settings, report: Report | None) -> dict[str, Question]:
    """What a set wants to know of its tags."""
    if settings.refresh != REFRESH_DIGEST or report is None:  # First the nodes tell what they hold.
        return {}
    secrets = frozenset((settings.namespace, name) for name in settings.image_pull_secrets)
    held: dict[str, set[str]] = {}
    for row in report.rows:
        if row.digest:
            held.setdefault(row.image, set()).add(row.digest)
    return {
        image.image: Question(_interval(settings), secrets, frozenset(held.get(image.image, ())))
        for image in moving_images(settings)
    }


def _has_moved(report: Report, digests: Mapping[str, str]) -> bool:
    return any(row.held and row.digest and digests.get(row.image, row.digest) != row.digest for row in report.rows)


def unnoticed(settings: Settings, live: Object, report: Report, now: datetime) -> tuple[tuple[str, ...], str]:
    """The images whose tags may move without being noticed, since nobody tells what nodes have; and a sentence."""
    tags = tuple(image.name for image in moving_images(settings))
    remedy = f"or let refresh be {REFRESH_RESTART} or {REFRESH_NEVER}"
    if report.inferred and strategy_of(live["spec"]["template"]["spec"]) == IMAGE_VOLUME:
        return tags, (
            "only the lists of nodes tell which digest an image volume holds, and they may not be read: moved tags "
            f"are not noticed. Remedy: let the controller read nodes, {remedy}"
        )
    rows = [row for row in report.counted if row.held and not row.digest and row.name in tags]
    places = {row.node for row in rows}
    places -= {row.node for row in report.counted if row.node in places and is_list_behind(row, now)}
    found = {row.name for row in rows if row.node in places}
    names = tuple(name for name in tags if name in found)
    if not names:
        return (), ""
    shown = some(names)
    digests = "the digest of {} is" if len(names) == 1 else "the digests of {} are"
    return names, (
        f"{digests.format(shown)} not told on {len(places)} node{'' if len(places) == 1 else 's'}, so that a moved tag "
        f"is not noticed there. Remedy: let those kubelets list more images (nodeStatusMaxImages), {remedy}"
    )


def _is_of(daemonset: Object, settings: Settings) -> bool:
    return (metadata(daemonset).get("labels") or {}).get(REFRESH_OF) == settings.daemonset_name


def _interval(settings: Settings) -> float:
    return float(settings.caching_interval_hours) * 3600
