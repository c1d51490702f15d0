# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock file: what each reference stood for when somebody looked, so that installations can be repeated. Pure.

Nodes hold the reference that consumers use, which no digest can take the place of. So a lock changes nothing of what is
pulled: it says what has to be there afterwards, and each node is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.images import InvalidReference, parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import some
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Facts, RegistryError
from ansible_collections.kubecache.image_puller.plugins.module_utils.render import to_yaml
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    REFRESH_NEVER,
    InvalidSettings,
    Problem,
    Settings,
    read_mapping,
)

VERSION = 1
_USES = CACHE, HELPER, CONTROLLER = "cache", "helper", "controller"
RENEW = "write the lock anew with the playbook plan and lock_update=true"
_EXAMPLE = "{version: 1, images: [...]}"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_PLATFORM = re.compile(r"[a-z0-9._-]{1,30}/[a-z0-9._-]{1,30}")
_HEADER = """\
# Which image each reference stood for. Written by kubecache.image_puller.plan with image_puller_lock_update=true.
"""


@dataclass(frozen=True)
class Wanted:
    """An image that an installation needs; ``name`` is ``group/name`` where a group caches it."""

    use: str
    name: str
    image: str


@dataclass(frozen=True)
class Locked:
    """One image of a lock.

    ``digest`` is that of the index, where there is one; ``platforms``: ``os/architecture`` -> the digest of the image
    for it, empty where the image does not say; ``size``: compressed bytes of the largest platform that nodes needed;
    ``locked``: since when that is known, in RFC 3339.
    """

    use: str
    name: str
    image: str
    digest: str
    platforms: Mapping[str, str]
    size: int
    locked: str

    @property
    def digests(self) -> frozenset[str]:
        """What a node may report that has this image: runtimes differ in whether they tell index or platform."""
        return frozenset({self.digest, *self.platforms.values()})

    @property
    def copied(self) -> dict[str, str]:
        """What a mirror copies, by its digest, and where it has it below its own name, as runtimes ask a mirror for it.

        Tools take a reference with a tag or with a digest, not with both; by digest an image is found under any tag.
        """
        reference = parse_reference(self.image)
        source = replace(reference, tag="", digest=self.digest)
        target = replace(reference, digest="") if reference.tag else reference
        return {"source": str(source), "target": str(target).removeprefix(f"{reference.registry}/")}


@dataclass(frozen=True)
class Lock:
    """A lock as read from a file."""

    path: str
    images: tuple[Locked, ...] = ()

    @property
    def digests(self) -> dict[str, tuple[str, ...]]:
        """Reference -> what a node may report that has the locked image, that of the index first."""
        return {entry.image: (entry.digest, *sorted(entry.digests - {entry.digest})) for entry in self.images}


def wanted_images(sets: Iterable[tuple[str, Settings]], controller: str = "") -> list[Wanted]:
    """All images that an installation needs, those that it caches first.

    :param sets: (title, settings), with an empty title for the main set.
    :param controller: the controller's image; empty: none is installed.
    """
    sets = list(sets)
    found = [Wanted(CACHE, _name(title, i.name), i.image) for title, settings in sets for i in settings.images]
    helpers: dict[str, str] = {}
    for title, settings in sets:
        helpers.setdefault(settings.helper_image, _name(title, HELPER))
    found += [Wanted(HELPER, name, image) for image, name in helpers.items()]
    return found + ([Wanted(CONTROLLER, CONTROLLER, controller)] if controller else [])


def _name(title: str, name: str) -> str:
    return f"{title}/{name}" if title else name


# --- the file --------------------------------------------------------------------------------------------------------


def _text(fits: Callable[[str], object], what: str) -> Callable[[Any, str], list[tuple[str, str]]]:
    def problems(value: Any, path: str) -> list[tuple[str, str]]:
        if isinstance(value, str) and fits(value):
            return []
        return [(f"{path} {value!r} is no {what}", f"correct it, or {RENEW}")]

    return problems


def _version(value: Any, path: str) -> list[tuple[str, str]]:
    if value == VERSION and not isinstance(value, bool):
        return []
    return [(f"{path} {value!r} is not {VERSION}, the only one that is known", f"update the collection, or {RENEW}")]


def _platforms(value: Any, path: str) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(f"{path} {value!r} is no mapping from platforms to digests", f"correct it, or {RENEW}")]
    found = [problem for name in value for problem in _text(_PLATFORM.fullmatch, "platform")(name, f"{path}:")]
    return found + [p for name, digest in value.items() for p in _text(_DIGEST.fullmatch, "digest")(digest, path)]


def _size(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return []
    return [(f"{path} {value!r} is no number of bytes", f"correct it, or {RENEW}")]


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except InvalidReference:
        return False
    return True


_SHAPE = {
    "version*": _version,
    "images*": [
        {
            "use*": _text(_USES.__contains__, f"use ({', '.join(_USES)})"),
            "name*": _text(re.compile(r"[a-z0-9.-]+(/[a-z0-9.-]+)?").fullmatch, "name"),
            "image*": _text(_is_reference, "reference of an image"),
            "digest*": _text(_DIGEST.fullmatch, "digest"),
            "platforms*": _platforms,
            "size*": _size,
            "locked*": _text(re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").fullmatch, "time"),
            # For who copies the images, and not there in a lock of an older collection.
            "source": _text(bool, "text"),
            "target": _text(bool, "text"),
        }
    ],
}


def parse_lock(text: str, path: str) -> Lock:
    """The lock in a file's text; InvalidSettings names everything that is wrong with it."""
    given, problems = read_mapping("lock", text.strip() or "{}", _SHAPE, _EXAMPLE)
    problems = [replace(problem, value=path) for problem in problems]
    if problems:
        raise InvalidSettings(problems)
    copied = [{key: entry.pop(key) for key in ("source", "target") if key in entry} for entry in given["images"]]
    entries = tuple(Locked(**entry) for entry in given["images"])
    names: set[tuple[str, str]] = set()
    digests: dict[str, str] = {}
    for number, entry in enumerate(entries):
        if (entry.use, entry.name) in names:
            problems.append(
                _problem(path, f"images[{number}].name {entry.name!r} is there twice", f"remove one, or {RENEW}")
            )
        names.add((entry.use, entry.name))
        if digests.setdefault(entry.image, entry.digest) != entry.digest:
            what = f"images[{number}].digest {entry.digest!r} is the second one of {entry.image}"
            problems.append(_problem(path, what, RENEW))
        for key, value in copied[number].items():
            if value != entry.copied[key]:
                what = f"images[{number}].{key} {value!r} is not {entry.copied[key]}, as image and digest have it"
                problems.append(_problem(path, what, f"correct it, or {RENEW}"))
    if problems:
        raise InvalidSettings(problems)
    return Lock(path, entries)


def show_lock(entries: Iterable[Locked]) -> str:
    """The text of a lock file: the same for the same entries, in whatever order."""
    order = sorted(entries, key=lambda entry: (_USES.index(entry.use), entry.name.count("/"), entry.name))
    images = [{**vars(entry), "platforms": dict(sorted(entry.platforms.items())), **entry.copied} for entry in order]
    return _HEADER + to_yaml({"version": VERSION, "images": images})


def _problem(path: str, what: str, remedy: str) -> Problem:
    return Problem("lock", path, what, remedy)


# --- against a list --------------------------------------------------------------------------------------------------


def mismatches(lock: Lock, wanted: Sequence[Wanted], *, whole: bool = True) -> list[Problem]:
    """Where a lock is not that of this list: names that it lacks or has too many, other references.

    :param whole: the list is that of a whole installation, so that nothing else may be in the lock.
    """
    entries = {(entry.use, entry.name): entry for entry in lock.images}
    problems = []
    for image in wanted:
        entry = entries.pop((image.use, image.name), None)
        if entry is None:
            what = f"there is no image {image.name} ({image.use}), which is {image.image} in the list"
            problems.append(_problem(lock.path, what, RENEW))
        elif entry.image != image.image:
            what = f"the image {image.name} ({image.use}) is {entry.image}, and {image.image} in the list"
            problems.append(_problem(lock.path, what, f"correct the list, or {RENEW}"))
    for use, name in entries if whole else ():
        what = f"the image {name} ({use}) is not in the list"
        problems.append(_problem(lock.path, what, f"correct the list, or {RENEW}"))
    return problems


def at_odds(sets: Iterable[Settings]) -> list[str]:
    """A sentence where the controller, which knows of no lock, would take nodes from what it says; for warnings."""
    moving = [
        one.daemonset_name
        for one in sets
        if one.refresh != REFRESH_NEVER and not all(parse_reference(image.image).digest for image in one.images)
    ]
    if not moving:
        return []
    return [
        f"{some(moving)}: the controller does not know of the lock. Once a tag is moved in its registry, it has nodes "
        f"pull what the lock does not have, and a wait with the lock fails. Remedy: set refresh to {REFRESH_NEVER}"
    ]


def renewed(
    wanted: Iterable[Wanted],
    answers: Mapping[str, Facts | RegistryError],
    previous: Iterable[Locked],
    now: str,
) -> tuple[Locked, ...]:
    """The entries of a new lock; RuntimeError where a registry did not say what an image is.

    :param answers: image -> what its registry said.
    :param previous: the entries of the lock before: what is still so keeps its time.
    """
    before = {(entry.use, entry.name): entry for entry in previous}
    found, unknown = [], []
    for image in wanted:
        answer = answers.get(image.image)
        if not isinstance(answer, Facts):
            unknown.append(f"{image.name} ({image.image}): {answer or 'its registry was not asked'}")
            continue
        sizes = (sum({layer.digest: layer.size for layer in layers}.values()) for layers in answer.layers.values())
        size = max(sizes, default=0)
        entry = Locked(image.use, image.name, image.image, answer.digest, dict(answer.manifests), size, now)
        kept = before.get((image.use, image.name))
        found.append(kept if kept and replace(kept, locked=now) == entry else entry)
    if unknown:
        raise RuntimeError(
            f"The lock was not written: it is unknown what some images are. {'; '.join(unknown)}. Remedy: correct the "
            "references, or let their registries be reached with registry_mirrors and registry_auth_file"
        )
    return tuple(found)


# --- against registries ----------------------------------------------------------------------------------------------


def drift(lock: Lock, answers: Mapping[str, str | RegistryError | None]) -> list[dict[str, Any]]:
    """What references stand for now where that is not, or may not be, what the lock says.

    :param answers: image -> digest, or why it is unknown (None: nobody was asked).
    :return: ``name``, ``image``, ``locked``, ``found`` (null where it is unknown) and ``message`` of each.
    """
    told = []
    for entry in lock.images:
        answer = answers.get(entry.image)
        if isinstance(answer, str):
            if answer in entry.digests:
                continue
            message = (
                f"{entry.name} ({entry.image}) is {answer} in its registry now, and the lock has {entry.digest} since "
                f"{entry.locked}. Remedy: push the locked image under this tag again, or {RENEW}"
            )
        else:
            why = answer or "its registry was not asked"
            message = f"{entry.name} ({entry.image}): whether it is still what the lock has is unknown: {why}"
        found = answer if isinstance(answer, str) else None
        told.append(
            {"name": entry.name, "image": entry.image, "locked": entry.digest, "found": found, "message": message}
        )
    return told
