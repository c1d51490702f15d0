# SPDX-License-Identifier: GPL-3.0-or-later
"""What tags stand for in their registries: each is asked for once for the cluster in its interval.

In a thread of its own, so that a registry that is slow or hangs delays nothing else. What can't be told is not known,
and what is not known changes nothing.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring, from_secret
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import (
    Access,
    Registries,
    RegistryError,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import read_access
from controller.clock import jittered
from controller.world import World

log = logging.getLogger("image-puller")

_FIRST = 60.0  # Seconds in which the first questions are spread.
_RETRY = 60.0  # The first pause after a question without an answer; it doubles up to the interval.
_SHOWN = 3  # Different errors in one line of the log.


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
    """What is known of one tag; ``digest`` empty: nothing."""

    due: float
    digest: str = ""
    error: str = ""
    failures: int = 0


@dataclass
class Asker:
    """Keeps ``digests``, what each tag stands for as far as it is known; another mapping whenever that changes.

    ``asked`` tells when each had its last answer.

    :param questions: what is to be asked for now, by reference.
    :param changed: called when ``digests`` has changed.
    """

    world: World
    access: Access
    questions: Callable[[], Mapping[str, Question]]
    changed: Callable[[], None]
    digests: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, datetime] = field(default_factory=dict)
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
        """Ask for these at once, unless their registry has just not answered."""
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
            pause = min((told.due - now for told in self._told.values()), default=_RETRY)
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
        due = {
            image: questions[image]
            for image, told in self._told.items()
            if told.due <= now or (image in hurried and told.digest)
        }
        if due:
            self._use_logins(frozenset().union(*(question.secrets for question in questions.values())))
        for image, question in due.items():
            self._ask(image, question)
        self._keep({image: told.digest for image, told in self._told.items() if told.digest}, due)
        self._say()

    def _ask(self, image: str, question: Question) -> None:
        told, clock = self._told[image], self.world.clock
        registries = self._registries or Registries(self.access)
        try:
            digest = registries.digest(image, known={told.digest, *question.held} - {""})
        except RegistryError as error:
            pause = max(error.retry_after or 0.0, min(question.interval, _RETRY * 2.0**told.failures))
            failed = _Told(clock.monotonic() + jittered(pause), "", str(error), min(told.failures + 1, 10))
            self._told[image] = failed
            return
        self._told[image] = _Told(clock.monotonic() + jittered(question.interval), digest)

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

    def _say(self) -> None:
        errors = [told.error for told in self._told.values() if told.error]
        said = list(dict.fromkeys(errors))
        more = f"; and {len(said) - _SHOWN} more reasons" if len(said) > _SHOWN else ""
        text = (
            f"what {len(errors)} of {len(self._told)} tags stand for could not be asked: {'; '.join(said[:_SHOWN])}"
            f"{more}. Until it can, the nodes keep what they have of them"
        )
        self.world.say("registries", text if errors else "")

    def _use_logins(self, secrets: frozenset[tuple[str, str]]) -> None:
        keyring = self.access.keyring
        for namespace, name in sorted(secrets):
            keyring += self._login(namespace, name)
        for problem in keyring.problems:
            self.world.say(f"login {problem}", problem)
        if self._registries is None or self._registries.access.keyring != keyring:
            self._registries = Registries(replace(self.access, keyring=keyring))

    def _login(self, namespace: str, name: str) -> Keyring:
        topic = f"secret {namespace}/{name}"
        try:
            secret = self.world.cluster.get("Secret", name, namespace)
        except ApiError as error:
            self.world.say(topic, f"{error}. Until then its registries are asked without a login")
            return Keyring()
        self.world.say(topic, "")
        return from_secret(secret) if secret else Keyring()


def access_of(environment: Mapping[str, str]) -> Access:
    """How the controller reaches registries: REGISTRY_MIRRORS, a JSON object, and REGISTRY_INSECURE, a list with ``,``.

    Proxies and further authorities are those of HTTPS_PROXY, HTTP_PROXY, NO_PROXY and SSL_CERT_FILE.
    """
    try:
        mirrors = json.loads(environment.get("REGISTRY_MIRRORS") or "{}")
        insecure = environment.get("REGISTRY_INSECURE", "").split(",")
        return read_access({"registry_mirrors": mirrors, "registry_insecure": insecure})
    except (AttributeError, ValueError, InvalidSettings) as error:
        log.error("the environment's REGISTRY_MIRRORS or REGISTRY_INSECURE can't be used, and is not: %s", error)
        return Access()
