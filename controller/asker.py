# SPDX-License-Identifier: GPL-3.0-or-later
"""What tags stand for in their registries: each is asked for once for the cluster in its interval.

In a thread of its own, so that a registry that is slow or hangs delays nothing else. What can't be told is not known,
and what is not known changes nothing.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ansible_collections.kubecache.image_puller.plugins.module_utils.access import (
    access,
    certificates,
    read_insecure,
    read_mirrors,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring, from_secret
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import (
    Access,
    Registries,
    RegistryError,
)
from controller.clock import jittered
from controller.world import World

log = logging.getLogger("image-puller")

_FIRST = 60.0  # Seconds in which the first questions are spread.
_RETRY = 60.0  # The first pause after a question without an answer; it doubles up to the interval.
_HURRIED = 5.0  # Seconds at least between two questions for one tag, however often somebody wants to know.
_NONE = 5.0  # Seconds until it looks again where nobody wants to know anything: nodes have not told yet what they hold.
_SHOWN = 3  # Different errors in one sentence.


@dataclass(frozen=True)
class Question:
    """One tag: how often it is asked for, with the pull secrets of these namespaces, and what nodes hold of it."""

    interval: float
    secrets: frozenset[tuple[str, str]] = frozenset()
    held: frozenset[str] = frozenset()

    def __or__(self, other: Question) -> Question:
        return Question(min(self.interval, other.interval), self.secrets | other.secrets, self.held | other.held)


@dataclass
class _Told:
    """What is known of one tag since ``at``; ``digest`` empty: nothing."""

    due: float
    digest: str = ""
    error: str = ""
    failures: int = 0
    at: float = 0.0


@dataclass
class Asker:
    """Keeps ``digests``, what each tag stands for as far as it is known; another mapping whenever that changes.

    ``asked`` tells when each had its last answer, ``errors`` why others have none.

    :param environment: says how registries are reached (:func:`access_of`).
    :param questions: what is to be asked for now, by reference.
    :param changed: called when ``digests`` has changed.
    """

    world: World
    environment: Mapping[str, str]
    questions: Callable[[], Mapping[str, Question]]
    changed: Callable[[], None]
    digests: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, datetime] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    _told: dict[str, _Told] = field(default_factory=dict)
    _registries: Registries | None = None
    _hurried: frozenset[str] = frozenset()
    _wake: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Ask from now on."""
        threading.Thread(target=self._run, name="asker", daemon=True).start()

    def forget(self, images: Iterable[str]) -> None:
        """Nothing is known of these any more until they are asked for again, when their time has come."""
        gone = set(images)
        with self._lock:
            self.digests = {image: digest for image, digest in self.digests.items() if image not in gone}
        self.changed()

    def hurry(self, images: Iterable[str]) -> None:
        """Ask for these as soon as may be, unless their registry has just not answered."""
        self._hurried |= frozenset(images)
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                self.ask()
            except Exception:
                log.exception("unexpected error while asking registries")
            now = self.world.clock.monotonic()
            pause = min((told.due - now for told in self._told.values()), default=_NONE)
            self.world.clock.wait(self._wake, min(max(pause, 0.5), _RETRY))

    def ask(self) -> None:
        """Ask for all whose time has come."""
        questions = self.questions()
        now = self.world.clock.monotonic()
        self._told = {
            image: self._told.get(image) or _Told(now + random.uniform(0.0, min(_FIRST, question.interval)))
            for image, question in questions.items()
        }
        hurried, self._hurried = self._hurried, frozenset()
        for image, told in self._told.items():
            if image in hurried and told.digest:
                told.due = min(told.due, told.at + _HURRIED)
        due = {image: questions[image] for image, told in self._told.items() if told.due <= now}
        if due:
            secrets = frozenset().union(*(question.secrets for question in questions.values()))
            registries = self._look_up(secrets)
            for image, question in due.items():
                self._ask(registries, image, question)
        self.errors = {image: told.error for image, told in self._told.items() if told.error}
        self.world.say("registries", unanswered(self.errors.values()))
        self._keep({image: told.digest for image, told in self._told.items() if told.digest}, due)

    def _ask(self, registries: Registries, image: str, question: Question) -> None:
        told, clock = self._told[image], self.world.clock
        try:
            digest = registries.digest(image, known={told.digest, *question.held} - {""})
        except RegistryError as error:
            pause = jittered(min(question.interval, _RETRY * 2.0**told.failures))
            due = clock.monotonic() + max(error.retry_after or 0.0, pause)
            failed = _Told(due, "", str(error), min(told.failures + 1, 10))
            self._told[image] = failed
            return
        now = clock.monotonic()
        self._told[image] = _Told(now + jittered(question.interval), digest, at=now)

    def _keep(self, digests: dict[str, str], asked: Iterable[str]) -> None:
        """Take over what was asked now; what was forgotten meanwhile stays so until it is asked for again."""
        with self._lock:
            before, fresh = self.digests, set(asked)
            after = {image: digest for image, digest in digests.items() if image in before or image in fresh}
            self.digests = after
            now = self.world.clock.now()
            self.asked = {**self.asked, **dict.fromkeys(fresh & after.keys(), now)}
        if after != before or fresh:
            self.changed()

    def _look_up(self, secrets: frozenset[tuple[str, str]]) -> Registries:
        """The registries as they are reached now: logins and authorities may have been renewed."""
        reached, problem = access_of(self.environment)
        self.world.say("access", problem, logging.ERROR)
        keyring = reached.keyring
        for namespace, name in sorted(secrets):
            keyring += self._login(namespace, name)
        for problem in keyring.problems:
            self.world.say(f"login {problem}", problem)
        reached = replace(reached, keyring=keyring)
        if self._registries is None or self._registries.access != reached:
            self._registries = Registries(reached)
        return self._registries

    def _login(self, namespace: str, name: str) -> Keyring:
        topic = f"secret {namespace}/{name}"
        try:
            secret = self.world.cluster.get("Secret", name, namespace)
        except ApiError as error:
            self.world.say(topic, f"{error}. Until then its registries are asked without a login")
            return Keyring()
        self.world.say(topic, "")
        return from_secret(secret) if secret else Keyring()


def unanswered(errors: Iterable[str]) -> str:
    """The reasons once, and not how many tags they stand for: those are asked one after another. Empty for none."""
    said = sorted(set(errors))
    if not said:
        return ""
    more = f"; and {len(said) - _SHOWN} more reasons" if len(said) > _SHOWN else ""
    return (
        f"what tags stand for could not be asked: {'; '.join(said[:_SHOWN])}{more}. "
        "Until it can, the nodes keep what they have of them"
    )


def access_of(environment: Mapping[str, str]) -> tuple[Access, str]:
    """How the controller reaches registries, and what of that can't be used and is not.

    REGISTRY_MIRRORS is a JSON object, REGISTRY_INSECURE a list with ``,``, REGISTRY_AUTHORITIES a directory whose files
    have certificates to trust besides the system's. Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
    """
    mirrors, problems = read_mirrors("REGISTRY_MIRRORS", environment.get("REGISTRY_MIRRORS"))
    insecure, more = read_insecure("REGISTRY_INSECURE", environment.get("REGISTRY_INSECURE"))
    said = [*map(str, problems), *map(str, more)]
    directory, authorities = environment.get("REGISTRY_AUTHORITIES", ""), ""
    if directory:
        try:
            authorities = certificates(_texts_in(Path(directory)))
        except (OSError, ValueError):
            remedy = "put some in the form PEM into the ConfigMap that registry_ca_config_map names"
            said.append(f"no certificate can be read from {directory}. Remedy: {remedy}")
    used = access({} if problems else mirrors, () if more else insecure, authorities=authorities)
    return used, f"how registries are reached: {' '.join(said)}" if said else ""


def _texts_in(directory: Path) -> str:
    """The files of a ConfigMap, which are links beside what they lead to."""
    return "\n".join(
        p.read_text(encoding="utf-8", errors="replace") for p in sorted(directory.iterdir()) if p.is_file()
    )
