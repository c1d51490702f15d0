# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads, renews and writes the lock file for the modules; what it means is said in lock.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import (
    CACHE,
    RENEW,
    Lock,
    Locked,
    Wanted,
    drift,
    mismatches,
    parse_lock,
    renewed,
    show_lock,
    wanted_images,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Facts
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings, Problem, Settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import ask_registries

LOCK_ARGUMENT: dict[str, Any] = {"lock": {"type": "path"}}
LOCK_ARGUMENTS: dict[str, Any] = {**LOCK_ARGUMENT, "lock_update": {"type": "bool", "default": False}}


@dataclass(frozen=True)
class LockFile:
    """A lock, where it does not fit the list, and what a renewed one makes of its file (``before``, ``after``)."""

    lock: Lock
    problems: tuple[Problem, ...] = ()
    before: str | None = None
    after: str | None = None

    @property
    def action(self) -> str:
        """What is to be done to the file: none, created or patched."""
        if self.after in (None, self.before):
            return "none"
        return "created" if self.before is None else "patched"

    def require(self) -> None:
        """InvalidSettings where the lock is not that of the list."""
        if self.problems:
            raise InvalidSettings(self.problems)

    def write(self, dry_run: bool = False) -> None:
        """Bring the file to the renewed lock; RuntimeError where that can't be."""
        if self.action == "none" or dry_run or self.after is None:
            return
        try:
            Path(self.lock.path).write_text(self.after, encoding="utf-8")
        except OSError as error:
            raise RuntimeError(
                f"lock {self.lock.path!r} can't be written: {error}. Correct it, or the rights"
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """What the modules return of it."""
        return {"path": self.lock.path, "action": self.action, "text": self.after or self.before}

    def diff(self) -> list[dict[str, Any]]:
        """Ansible's diff of the file."""
        headers = {"before_header": self.lock.path, "after_header": self.lock.path}
        return [{"before": self.before or "", "after": self.after, **headers}] if self.action != "none" else []


def read_lock(path: str) -> Lock:
    """The lock in a file; InvalidSettings where it can't be read or is damaged."""
    return parse_lock(_read(path), path)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        problem = Problem("lock", path, "there is no such file", f"correct the path, or {RENEW}")
    except (OSError, UnicodeDecodeError):
        problem = Problem("lock", path, "it can't be read", f"correct the path or the permissions, or {RENEW}")
    raise InvalidSettings([problem])


def open_lock(
    cluster: Cluster,
    sets: Sequence[tuple[str, Settings]],
    params: Mapping[str, Any],
    *,
    controller: str = "",
    whole: bool = True,
) -> LockFile | None:
    """The lock that the options name, compared with what is wanted, or with ``lock_update`` renewed; None: none.

    :param sets: (title, settings) of each set that is wanted.
    :param controller: the controller's image.
    :param whole: False: these are not all sets of the installation, and what the lock has of others stays.
    """
    path = params["lock"]
    if not path:
        if params["lock_update"]:
            raise RuntimeError("lock_update writes the file that lock names. Name it, or leave lock_update out")
        return None
    if not params["lock_update"]:
        return compare(path, sets, controller, whole=whole)
    wanted = _wanted(sets, controller, whole)
    before, previous = _there(path)
    images = [image.image for image in wanted]
    answers = ask_registries(cluster, [settings for _title, settings in sets], params, images, sizes=True)
    titles = {title for title, _settings in sets}
    others = [] if whole else [e for e in previous if e.use != CACHE or e.name.rpartition("/")[0] not in titles]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    entries = (*renewed(wanted, answers, previous, now), *others)
    return LockFile(Lock(path, entries), (), before, show_lock(entries))


def compare(path: str, sets: Sequence[tuple[str, Settings]], controller: str, *, whole: bool = True) -> LockFile:
    """The lock in a file, and where it is not that of what is wanted (as in :func:`open_lock`)."""
    text = _read(path)
    lock = parse_lock(text, path)
    return LockFile(lock, tuple(mismatches(lock, _wanted(sets, controller, whole), whole=whole)), text, text)


def _wanted(sets: Sequence[tuple[str, Settings]], controller: str, whole: bool) -> list[Wanted]:
    return [image for image in wanted_images(sets, controller) if whole or image.use == CACHE]


def _there(path: str) -> tuple[str | None, tuple[Locked, ...]]:
    """The file's text, and what of it is still of use: a damaged lock is written anew as a whole."""
    try:
        text = _read(path)
    except InvalidSettings:
        return None, ()
    try:
        return text, parse_lock(text, path).images
    except InvalidSettings:
        return text, ()


def misfits(lock: Lock, sets: Sequence[tuple[str, Settings]], *, whole: bool) -> list[str]:
    """Where a lock is not that of the images that sets cache, in sentences (``whole`` as in :func:`open_lock`)."""
    return [str(problem) for problem in mismatches(_cached(lock), _wanted(sets, "", False), whole=whole)]


def _cached(lock: Lock) -> Lock:
    return replace(lock, images=tuple(entry for entry in lock.images if entry.use == CACHE))


def told_by_registries(
    cluster: Cluster, lock: Lock, sets: Sequence[tuple[str, Settings]], params: Mapping[str, Any]
) -> list[str]:
    """What is otherwise than the lock has it, or unknown: the list, and what registries say of each cached image."""
    cached = _cached(lock)
    images = [entry.image for entry in cached.images]
    answers = ask_registries(cluster, [settings for _title, settings in sets], params, images)
    digests = {image: answer.digest if isinstance(answer, Facts) else answer for image, answer in answers.items()}
    return [*misfits(lock, sets, whole=params["sets"] == "all"), *(each["message"] for each in drift(cached, digests))]
