# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets that an installation is to have: the main one and one for each group, from options and from what is there.

Pure. One ConfigMap is one set is one DaemonSet; those of group g are called after the main ones, with ``-g`` behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    DEPLOYMENT,
    GROUP,
    IMAGE_SET,
    KEPT,
    is_ours,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULT_IMAGES,
    DEFAULTS,
    FIELDS,
    REFRESH_DIGEST,
    Field,
    InvalidSettings,
    Problem,
    Reading,
    Settings,
    check,
    format_images,
    from_config_map,
    from_options,
    read_list,
    to_options,
)

_EXAMPLE = '[{"name": "gpu", "images": {"cuda": "registry.example.com/team/cuda:12.4"}}]'
_LONGEST_NAME = 63
_UNSET = (None, "")
_NO_IMAGES: tuple[object, ...] = ([], {}, "[]", "{}")
# What an entry may say; a group lives in the namespace of its installation.
_FIELDS: dict[str, Any] = {"name*": str, **{f.option: object for f in FIELDS if f.option != "namespace"}}


@dataclass(frozen=True)
class Wanted:
    """One set: its ConfigMap, its group (empty: the main set) and its settings.

    ``kept``: the options of which nobody said anything since they were taken over from another implementation.
    """

    config_map_name: str
    group: str
    settings: Settings
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What an installation is to have.

    ``common`` are the settings that all sets begin with; ``leaving`` the ConfigMaps whose sets left the list.
    """

    common: Settings | None
    sets: tuple[Wanted, ...] = ()
    leaving: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def required(self) -> Settings:
        """The common settings of a plan without any problem; :class:`InvalidSettings` names all of them otherwise."""
        if self.problems or self.common is None:
            raise InvalidSettings(self.problems)
        return self.common


def merge_options(options: Mapping[str, Any], config_map: Mapping[str, Any] | None, where: str) -> Reading:
    """Read options; images left out keep the list of the ConfigMap that is there, and are the default list without one.

    Of a ConfigMap of somebody else's everything that is left out is kept, see :func:`kept_options`.

    :param where: namespace and name of the ConfigMap, for the notes that say so.
    """
    kept = kept_options(options, config_map)
    given, notes = _with_kept(options, config_map), []
    reading = from_options(given)
    if kept and reading.settings:
        shown = "; ".join(f"{f.key}={f.show(getattr(reading.settings, f.option))}" for f in FIELDS if f.option in kept)
        notes.append(f"settings of ConfigMap {where} that were taken over are kept: {shown}")
    if options.get("images") not in _UNSET:
        return replace(reading, notes=(*reading.notes, *notes))
    if given.get("images"):
        notes.append(f"images were not given: the list of ConfigMap {where} is kept")
        notes += [f"{problem} It was left out silently so far, and is not cached" for problem in _dropped(config_map)]
    else:
        notes.append(f"images were not given: the default list is used ({format_images(DEFAULT_IMAGES)})")
    return replace(reading, notes=(*reading.notes, *notes))


def kept_options(options: Mapping[str, Any], config_map: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The options that are left out and stay as the ConfigMap has them; images, which always do, apart.

    Those are all that a ConfigMap of another implementation has, and then those of which nobody has said anything since
    it was taken over (its annotation KEPT).
    """
    data = (config_map or {}).get("data") or {}
    left_out = [f for f in FIELDS if f.option not in ("images", "namespace") and options.get(f.option) in _UNSET]
    if config_map and is_ours(config_map):
        told = (metadata(config_map).get("annotations") or {}).get(KEPT, "").split(",")
        left_out = [f for f in left_out if f.option in told]
    return tuple(f.option for f in left_out if _says_something(f, data))


def _says_something(setting: Field, data: Mapping[str, str]) -> bool:
    """Whether the ConfigMap has another value than the default."""
    if not data.get(setting.key, "").strip():
        return False
    reading = from_config_map({setting.key: data[setting.key]})
    return not reading.settings or getattr(reading.settings, setting.option) != DEFAULTS[setting.option]


def _with_kept(options: Mapping[str, Any], config_map: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options, and what stays as it is where they say nothing; without the entries that can't be used."""
    data = (config_map or {}).get("data") or {}
    stay = kept_options(options, config_map)
    kept: dict[str, Any] = {f.option: data[f.key] for f in FIELDS if f.option in stay}
    if options.get("images") in _UNSET:
        kept["images"] = data.get("IMAGES", "").strip() or None
        if _dropped(config_map):
            reading = from_config_map({"IMAGES": data["IMAGES"]})
            kept["images"] = format_images(reading.settings.images if reading.settings else ())
    return {**options, **kept}


def _dropped(config_map: Mapping[str, Any] | None) -> tuple[Problem, ...]:
    """The entries that another implementation left out without a word; in a ConfigMap of ours they are refused."""
    if config_map is None or is_ours(config_map):
        return ()
    reading = from_config_map({"IMAGES": (config_map.get("data") or {}).get("IMAGES", "")})
    return reading.problems if reading.settings else ()


def keep_names(options: Mapping[str, Any], config_map: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options, with what an installation chose for the cache's pods where they leave it open."""
    reading = from_config_map((config_map or {}).get("data") or {})
    kept = to_options(reading.settings) if config_map and reading.settings else {}
    names = ("priority_class_name", "cache_service_account_name")
    return {**options, **{name: options.get(name) or kept.get(name) for name in names}}


def group_of(config_map: Mapping[str, Any]) -> str:
    """The group whose set the ConfigMap holds; empty for any other set."""
    return str((metadata(config_map).get("labels") or {}).get(GROUP) or "")


def sets_of(
    config_maps: Iterable[dict[str, Any]], config_map_name: str, deployment_name: str
) -> dict[str, dict[str, Any]]:
    """The ConfigMaps that are sets of one installation, by name, the main one first.

    :param config_map_name: the main one, which the controller's environment names; it needs no label.
    :param deployment_name: the installation's; sets of another one in the namespace bear another.
    """
    found = {}
    for config_map in config_maps:
        name, labels = metadata(config_map)["name"], metadata(config_map).get("labels") or {}
        if name == config_map_name or (
            IMAGE_SET in labels and labels.get(DEPLOYMENT, deployment_name) == deployment_name
        ):
            found[name] = config_map
    return dict(sorted(found.items(), key=lambda item: (item[0] != config_map_name, item[0])))


def secrets_of(sets: Iterable[Settings]) -> tuple[str, ...]:
    """The pull secrets with which the controller asks registries what the tags of these sets stand for."""
    return tuple(sorted({name for one in sets if one.refresh == REFRESH_DIGEST for name in one.image_pull_secrets}))


def settings_of(config_maps: Iterable[Mapping[str, Any]]) -> list[Settings]:
    """The settings of the sets in these ConfigMaps, as far as they can be used."""
    read = [from_config_map(config_map.get("data") or {}).settings for config_map in config_maps]
    return [settings for settings in read if settings]


def read_plan(
    options: Mapping[str, Any],
    groups: object,
    config_map_name: str,
    live: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The sets that options and groups ask for.

    :param options: the options of the settings. They are those of the main set, and what a group does not say.
    :param groups: a list of mappings, each with name, images and any option of the settings, or the same as JSON or
        YAML text. None or empty text: the groups that are there stay as they are.
    :param live: the installation's ConfigMaps that are there, by name (:func:`sets_of`).
    """
    there, asked = live or {}, groups not in _UNSET
    entries, shapeless = read_list("groups", groups, _FIELDS, _EXAMPLE) if asked else ([], [])
    kept = {} if asked else {name: group_of(there[name]) for name in there if group_of(there[name])}
    main, images = there.get(config_map_name), options.get("images")
    without_main = bool(entries or kept) and (images in _NO_IMAGES or (images in _UNSET and main is None))
    if without_main:
        common = from_options({**options, "images": None})
    else:
        common = merge_options(options, main, f"{options.get('namespace')}/{config_map_name}")
    notes = list(common.notes)
    if without_main and images in _UNSET:
        notes.append("images were not given: no images are cached but those of the groups")
    if kept:
        notes.append(f"groups were not given: {', '.join(sorted(kept.values()))} stay as they are")
    sets: list[tuple[str, Wanted]] = []
    if common.settings and not without_main:
        sets.append(("the main set", Wanted(config_map_name, "", common.settings, kept_options(options, main))))
    problems = [*common.problems, *(_placed(problem, entries) for problem in shapeless)]
    inherited = {**_with_kept(options, main), "images": options.get("images")}
    for place, name, reading in _read_groups(entries, inherited, config_map_name):
        # What a group took over is told once, where it was written.
        own = [problem for problem in reading.problems if problem not in common.problems]
        problems += [replace(problem, key=f"{place}: {problem.key}") for problem in own]
        notes += [f"{place}: {note}" for note in reading.notes]
        if reading.settings:
            sets.append((place, Wanted(f"{config_map_name}-{name}", name, reading.settings)))
    problems += _repeated(sets)
    stay = {wanted.config_map_name for _where, wanted in sets} | kept.keys()
    ours = [name for name in there if group_of(there[name]) or (name == config_map_name and without_main)]
    leaving = tuple(name for name in ours if name not in stay)
    return Plan(common.settings, tuple(wanted for _where, wanted in sets), leaving, tuple(problems), tuple(notes))


def _read_groups(
    entries: Sequence[Any], options: Mapping[str, Any], config_map_name: str
) -> Iterator[tuple[str, str, Reading]]:
    """Place, name and settings of each group: what it says, and else what the options say."""
    daemonset_name = options.get("daemonset_name") or DEFAULTS["daemonset_name"]
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            continue
        name = entry["name"].strip() if isinstance(entry.get("name"), str) else None
        own = {f.option: entry[f.option] for f in FIELDS if f.option in _FIELDS and entry.get(f.option) not in _UNSET}
        reading = from_options({**options, "images": [], "daemonset_name": f"{daemonset_name}-{name}", **own})
        problems = [] if name is None else list(check("name", name, "label"))
        problems += [] if name is None or problems else _too_long(name, config_map_name, daemonset_name)
        # The DaemonSet's name is made from the group's, of which all is said.
        more = [p for p in reading.problems if p.key != "daemonset_name" or "daemonset_name" in own]
        yield _place(number, entry), name or "", replace(reading, problems=(*problems, *more))


def _too_long(name: str, *prefixes: str) -> list[Problem]:
    longest = max(prefixes, key=len)
    room = _LONGEST_NAME - len(longest) - 1
    if len(name) <= room:
        return []
    what = f"{longest}-{name} would have {len(longest) + 1 + len(name)} characters, and {_LONGEST_NAME} are allowed"
    shorter = f"use at most {room} characters" if room > 0 else "choose shorter names for ConfigMap and DaemonSet"
    return [Problem("name", name, what, shorter)]


def _repeated(sets: Sequence[tuple[str, Wanted]]) -> list[Problem]:
    """Two groups of one name, and two sets with one DaemonSet."""
    problems: list[Problem] = []
    names: dict[str, str] = {}
    daemonsets: dict[str, str] = {}
    for place, wanted in sets:
        name, daemonset = wanted.config_map_name, wanted.settings.daemonset_name
        if name in names:
            what = f"the name was used before, in {names[name]}"
            problems.append(Problem(f"{place}: name", wanted.group, what, "write another name"))
        elif daemonset in daemonsets:
            what = f"{daemonsets[daemonset]} has a DaemonSet of that name"
            problems.append(Problem(f"{place}: daemonset_name", daemonset, what, "write another name, or leave it out"))
        names.setdefault(name, place)
        daemonsets.setdefault(daemonset, place)
    return problems


def _place(number: int, entry: Any) -> str:
    """``groups, entry 2 (gpu)``."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"groups, entry {number}" + (f" ({name})" if isinstance(name, str) and name.strip() else "")


def _placed(problem: Problem, entries: Sequence[Any]) -> Problem:
    if problem.entry is None:
        return problem
    return replace(problem, key=_place(problem.entry, entries[problem.entry - 1]), entry=None)
