# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of one image set: read from module options, a ConfigMap or an environment, printed back to each.

The forms differ in names and in text against structure; the rules are the same and live here. Reading never stops at
the first problem. A problem that spoils one entry leaves the others usable, one that spoils the whole set does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.images import (
    ReferenceError,
    parse_reference,
    split_entries,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity

try:
    import yaml
except ImportError:  # The pure core needs only the standard library; without PyYAML texts are read as JSON.
    yaml = None  # type: ignore[assignment]

HELPER_IMAGE = "ghcr.io/kubecache/image-puller-helper:1.0.0"
CONFIG_MAP_NAME = "k8s-image-puller"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True)
class CachedImage:
    """One entry of the list: the container's name and the reference that consumers use."""

    name: str
    image: str


@dataclass(frozen=True)
class Settings:
    """Everything that one image set is made from. Quantities and references are kept as they were written."""

    images: tuple[CachedImage, ...]
    namespace: str = "k8s-image-puller"
    daemonset_name: str = "kubernetes-image-puller"
    daemonset_annotations: dict[str, str] = field(default_factory=dict)
    caching_interval_hours: str = "1"
    caching_memory_request: str = "10Mi"
    caching_memory_limit: str = "20Mi"
    caching_cpu_request: str = ".05"
    caching_cpu_limit: str = ".2"
    node_selector: dict[str, str] = field(default_factory=dict)
    affinity: dict[str, Any] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    helper_image: str = HELPER_IMAGE
    max_unavailable: str = "10%"
    priority_class_name: str = ""
    cache_service_account_name: str = ""


DEFAULT_IMAGES = (
    CachedImage("che-code", "quay.io/che-incubator/che-code:next"),
    CachedImage("base-developer-image", "quay.io/devfile/base-developer-image:ubi9-latest"),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``key`` as the form names it, ``entry`` counted from 1, ``whole``: spoils the set."""

    key: str
    value: str
    what: str
    remedy: str
    entry: int | None = None
    whole: bool = True

    def __str__(self) -> str:
        where = self.key if self.entry is None else f"{self.key}, entry {self.entry}"
        return f"{where} {_shorten(self.value)!r}: {self.what}. Remedy: {self.remedy}."


@dataclass(frozen=True)
class Reading:
    """What was read: ``settings`` is None where a problem spoils the set; ``notes`` are no problems."""

    settings: Settings | None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


class InvalidSettings(ValueError):
    """All problems of a set, for those who refuse a set with any."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"The settings have {count}; nothing was changed.\n" + "\n".join(f"- {p}" for p in problems))


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


class _Reader:
    """Collects the problems and notes of one value while its parser goes on."""

    def __init__(self, key: str, raw: object) -> None:
        self.key = key
        self.raw = raw
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def refuse(
        self, what: str, remedy: str, *, value: object = None, entry: int | None = None, whole: bool = True
    ) -> None:
        text = _text(self.raw if value is None else value)
        self.problems.append(Problem(self.key, text, what, remedy, entry, whole))

    def structure(self) -> Any:
        """The value itself, or what its JSON or YAML text says; None after a problem was noted."""
        if not isinstance(self.raw, str):
            return self.raw
        try:
            return json.loads(self.raw)
        except ValueError as error:
            reason = f"it is no JSON ({error})"
        if yaml is not None:
            try:
                value = yaml.safe_load(self.raw)
            except yaml.YAMLError as error:
                reason = f"it is neither JSON nor YAML ({' '.join(str(error).split())})"
            else:
                if isinstance(value, (dict, list)):
                    return value
        self.refuse(reason, 'write JSON, for example {"key": "value"}')
        return None


# --- single values ---------------------------------------------------------------------------------------------------


def _namespace(read: _Reader) -> str:
    text = str(read.raw).strip()
    if not _LABEL.fullmatch(text):
        read.refuse(
            "it is no name of a namespace (a DNS-1123 label)",
            "use at most 63 lower case letters, digits and '-', with a letter or digit at both ends",
        )
    return text


def _object_name(read: _Reader) -> str:
    text = str(read.raw).strip()
    # The name is a label value too, hence 63 characters rather than the 253 of a DNS subdomain.
    if len(text) > 63 or not _SUBDOMAIN.fullmatch(text):
        read.refuse(
            "it is no name of a Kubernetes object (a DNS-1123 subdomain of at most 63 characters)",
            "use lower case letters, digits, '-' and '.', with a letter or digit at both ends",
        )
    return text


def _interval(read: _Reader) -> str:
    text = str(read.raw).strip()
    try:
        hours = Decimal(text)
    except InvalidOperation:
        hours = Decimal("nan")
    if not hours.is_finite() or not Decimal("0.0001") <= hours <= Decimal("87600"):
        read.refuse("it is no number of hours above 0", "write a number such as 1 or 0.5 (0.0001 to 87600)")
        return "1"
    return f"{hours.normalize():f}"


def _quantity(read: _Reader) -> str:
    text = str(read.raw).strip()
    try:
        if parse_quantity(text) < 0:
            read.refuse("a quantity is not negative", "write 0 or more, for example 10Mi or .05")
    except ValueError:
        read.refuse("it is no Kubernetes quantity", "write a number with one of m, k, M, G, Ki, Mi, Gi, or none: 20Mi, .05, 50m")
    return text


def _helper_image(read: _Reader) -> str:
    text = str(read.raw).strip()
    try:
        parse_reference(text)
    except ReferenceError as error:
        read.refuse(error.what, error.remedy)
    return text


def _max_unavailable(read: _Reader) -> str:
    text = str(read.raw).strip()
    match = re.fullmatch(r"([0-9]{1,6})(%?)", text)
    number = int(match.group(1)) if match else 0
    if not match or number < 1 or (match.group(2) and number > 100):
        read.refuse("it is neither a number of nodes nor a percentage", "write 1 or more, or 1% to 100%")
        return "10%"
    return f"{number}{match.group(2)}"


# --- lists and structures --------------------------------------------------------------------------------------------


def _images(read: _Reader) -> tuple[CachedImage, ...]:
    raw = read.raw
    if isinstance(raw, str) and raw.lstrip()[:1] in ("[", "{"):
        raw = read.structure()
        if raw is None:
            return ()
    if isinstance(raw, str):
        entries: list[Any] = list(split_entries(raw))
    elif isinstance(raw, Mapping):
        entries = [{"name": name, "image": image} for name, image in raw.items()]
    elif isinstance(raw, (list, tuple)):
        entries = list(raw)
    else:
        read.refuse("it is no list of images", "write a mapping name: image, a list of {name, image}, or name=image;...")
        return ()
    if not entries:
        read.refuse("the list is empty", "name at least one image, for example java11=registry.example.com/team/java11:2.1")
        return ()
    found: dict[str, CachedImage] = {}
    for number, entry in enumerate(entries, 1):
        image = _image_entry(read, number, entry)
        if image is None:
            continue
        if image.name in found:
            read.refuse(
                f"the name {image.name} was used before, for {found[image.name].image}",
                f"give each entry a name of its own, for example {image.name[:60]}-{number}",
                value=entry if isinstance(entry, str) else f"{image.name}={image.image}",
                entry=number,
                whole=False,
            )
        found[image.name] = image  # The last one wins, where problems of entries are tolerated at all.
    _note_same_images(read, found)
    if not found:
        # Entries were there and every one was refused: nothing remains that could be cached.
        read.problems = [Problem(p.key, p.value, p.what, p.remedy, p.entry, True) for p in read.problems]
    return tuple(found.values())


def _image_entry(read: _Reader, number: int, entry: Any) -> CachedImage | None:
    if isinstance(entry, str):
        name, equals, image = (part.strip() for part in entry.partition("="))
        if not equals:
            read.refuse(
                "there is no '='", f"write {_suggest_name(entry)}={entry}", value=entry, entry=number, whole=False
            )
            return None
        shown = entry
    elif isinstance(entry, Mapping):
        unknown = sorted(str(key) for key in entry if key not in ("name", "image"))
        if unknown or not isinstance(entry.get("name"), str) or not isinstance(entry.get("image"), str):
            what = f"unknown field {', '.join(unknown)}" if unknown else "name and image must both be there and be texts"
            read.refuse(what, "write {name: java11, image: registry/java11:2.1}", value=entry, entry=number, whole=False)
            return None
        name, image = entry["name"].strip(), entry["image"].strip()
        shown = f"{name}={image}"
    else:
        read.refuse("it is no entry", "write {name: ..., image: ...} or name=image", value=entry, entry=number, whole=False)
        return None
    good = True
    if not _LABEL.fullmatch(name):
        read.refuse(
            f"the name {name!r} is no DNS-1123 label (at most 63 lower case letters, digits and '-')",
            f"write {_suggest_name(name or image)}={image}",
            value=shown,
            entry=number,
            whole=False,
        )
        good = False
    try:
        parse_reference(image)
    except ReferenceError as error:
        read.refuse(f"{error.what} in the image {image!r}", error.remedy, value=shown, entry=number, whole=False)
        good = False
    return CachedImage(name, image) if good else None


def _suggest_name(text: str) -> str:
    """A DNS-1123 label that resembles the text; of an image reference, its last component without tag."""
    last = text.rsplit("/", 1)[-1].split("@")[0].split(":")[0]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:63].strip("-") or "image"


def _note_same_images(read: _Reader, found: Mapping[str, CachedImage]) -> None:
    names: dict[str, list[str]] = {}
    for image in found.values():
        names.setdefault(str(parse_reference(image.image)), []).append(image.name)
    for image_text, used in names.items():
        if len(used) > 1:
            read.notes.append(f"{read.key}: {image_text} is listed {len(used)} times ({', '.join(used)}); once is enough")


def _image_pull_secrets(read: _Reader) -> tuple[str, ...]:
    raw = read.raw
    parts = re.split(r"[;,\s]+", raw) if isinstance(raw, str) else raw
    if not isinstance(parts, (list, tuple)):
        read.refuse("it is no list of names", "write names of Secrets, separated by ';'")
        return ()
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    for name in names:
        if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
            read.refuse(f"{name!r} is no name of a Secret", "use lower case letters, digits, '-' and '.'")
    return names


def _qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return bool(_QUALIFIED.fullmatch(name)) and (
        not slash or (len(prefix) <= 253 and bool(_SUBDOMAIN.fullmatch(prefix)))
    )


def _text_mapping(read: _Reader, example: str) -> dict[str, str]:
    value = read.structure()
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        read.refuse("it is no JSON object", f"write {example}")
        return {}
    for key, text in value.items():
        if not isinstance(key, str) or not _qualified_name(key):
            read.refuse(f"{key!r} is no key of a label or annotation", f"write {example}")
        elif not isinstance(text, str):
            read.refuse(f"the value of {key} is {json.dumps(text)}, not a text", f'write {{"{key}": "{_plain(text)}"}}')
    return dict(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _annotations(read: _Reader) -> dict[str, str]:
    return _text_mapping(read, '{"example.com/team": "platform"}')


def _node_selector(read: _Reader) -> dict[str, str]:
    value = _text_mapping(read, '{"disktype": "ssd"}')
    for key, text in value.items():
        if isinstance(text, str) and not _LABEL_VALUE.fullmatch(text):
            read.refuse(f"{text!r} is no value of the label {key}", "use at most 63 letters, digits, '-', '_' and '.'")
    if value.get("kubernetes.io/os", "linux") != "linux":
        read.refuse("the cache runs on Linux nodes only", "leave kubernetes.io/os out, or write linux")
    return value


def _tolerations(read: _Reader) -> tuple[dict[str, Any], ...]:
    value = read.structure()
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        read.refuse("it is no JSON list", 'write [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]')
        return ()
    for number, toleration in enumerate(value, 1):
        for what, remedy in _toleration_problems(toleration):
            read.refuse(what, remedy, value=toleration, entry=number)
    return tuple(dict(toleration) for toleration in value if isinstance(toleration, Mapping))


def _toleration_problems(toleration: Any) -> list[tuple[str, str]]:
    shape = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
    problems = _shape_problems(toleration, shape, "")
    if problems:
        return problems
    operator, effect = toleration.get("operator", "Equal"), toleration.get("effect", "")
    if operator not in ("Exists", "Equal", "Lt", "Gt"):
        problems.append((f"operator {operator!r} is unknown", "write Exists or Equal"))
    if operator == "Exists" and toleration.get("value"):
        problems.append(("operator Exists takes no value", "remove the value, or write operator Equal"))
    if not toleration.get("key") and operator != "Exists":
        problems.append(("a toleration without a key must have operator Exists", "name the key or write operator Exists"))
    if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        problems.append((f"effect {effect!r} is unknown", "write NoSchedule, PreferNoSchedule, NoExecute, or leave it out"))
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        problems.append(("tolerationSeconds needs effect NoExecute", "remove it or write effect NoExecute"))
    return problems


_REQUIREMENTS = [{"key": str, "operator": str, "values": [str]}]
_NODE_TERM = {"matchExpressions": _REQUIREMENTS, "matchFields": _REQUIREMENTS}
_LABEL_SELECTOR = {"matchLabels": {None: str}, "matchExpressions": _REQUIREMENTS}
_POD_TERM = {
    "labelSelector": _LABEL_SELECTOR,
    "namespaceSelector": _LABEL_SELECTOR,
    "namespaces": [str],
    "topologyKey": str,
    "matchLabelKeys": [str],
    "mismatchLabelKeys": [str],
}
_POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_POD_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": int, "podAffinityTerm": _POD_TERM}],
}
# The fields of core/v1 Affinity.
_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NODE_TERM]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": int, "preference": _NODE_TERM}],
    },
    "podAffinity": _POD_AFFINITY,
    "podAntiAffinity": _POD_AFFINITY,
}


def _affinity(read: _Reader) -> dict[str, Any]:
    value = read.structure()
    if value is None:
        return {}
    problems = _shape_problems(value, _AFFINITY, "")
    for what, remedy in problems:
        read.refuse(what, remedy)
    if problems:
        return {}
    required = (value.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None and not required.get("nodeSelectorTerms"):
        read.refuse(
            "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution has no nodeSelectorTerms",
            "name at least one term, or leave the field out",
        )
    return dict(value)


_SHAPE_NAMES = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


def _shape_problems(value: Any, shape: Any, path: str) -> list[tuple[str, str]]:
    """Compare a value with a shape: a type, ``[item]``, ``{field: shape}`` or ``{None: shape}`` for any field."""
    wanted = type(shape) if isinstance(shape, (dict, list)) else shape
    fits = isinstance(value, Mapping) if wanted is dict else isinstance(value, wanted)
    if not fits or (wanted is int and isinstance(value, bool)):
        return [(f"{path or 'the value'} is {_SHAPE_NAMES.get(type(value), repr(value))}", f"write {_SHAPE_NAMES[wanted]}")]
    problems: list[tuple[str, str]] = []
    if isinstance(shape, list):
        for number, item in enumerate(value):
            problems += _shape_problems(item, shape[0], f"{path}[{number}]")
    elif isinstance(shape, dict):
        for name, item in value.items():
            where = f"{path}.{name}" if path else str(name)
            if None in shape:
                problems += _shape_problems(item, shape[None], where)
            elif name in shape:
                problems += _shape_problems(item, shape[name], where)
            else:
                problems.append((f"unknown field {where}", f"use {', '.join(shape)}"))
    return problems


# --- the forms -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One setting: its option in Ansible, its key in the ConfigMap, how it is read and how it is printed."""

    option: str
    key: str
    read: Callable[[_Reader], Any]
    show: Callable[[Any], str] = str
    optional: bool = False  # Ours, not the known contract's: printed only where it says something.


def format_images(images: Sequence[CachedImage]) -> str:
    """The canonical IMAGES text: ``name=image;name=image``."""
    return ";".join(f"{image.name}={image.image}" for image in images)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


FIELDS = (
    Field("images", "IMAGES", _images, format_images),
    Field("namespace", "NAMESPACE", _namespace),
    Field("daemonset_name", "DAEMONSET_NAME", _object_name),
    Field("daemonset_annotations", "DAEMONSET_ANNOTATIONS", _annotations, _json),
    Field("caching_interval_hours", "CACHING_INTERVAL_HOURS", _interval),
    Field("caching_memory_request", "CACHING_MEMORY_REQUEST", _quantity),
    Field("caching_memory_limit", "CACHING_MEMORY_LIMIT", _quantity),
    Field("caching_cpu_request", "CACHING_CPU_REQUEST", _quantity),
    Field("caching_cpu_limit", "CACHING_CPU_LIMIT", _quantity),
    Field("node_selector", "NODE_SELECTOR", _node_selector, _json),
    Field("affinity", "AFFINITY", _affinity, _json),
    Field("tolerations", "TOLERATIONS", _tolerations, _json),
    Field("image_pull_secrets", "IMAGE_PULL_SECRETS", _image_pull_secrets, ";".join),
    Field("helper_image", "KIP_IMAGE", _helper_image),
    Field("max_unavailable", "MAX_UNAVAILABLE", _max_unavailable, optional=True),
    Field("priority_class_name", "PRIORITY_CLASS", _object_name, optional=True),
    Field("cache_service_account_name", "CACHE_SERVICE_ACCOUNT", _object_name, optional=True),
)
DEFAULTS = {f.name: getattr(Settings(DEFAULT_IMAGES), f.name) for f in fields(Settings)}


def from_options(options: Mapping[str, Any]) -> Reading:
    """Read module options; None and an empty text (a survey's unanswered question) mean the default.

    An empty list or mapping of images is a problem, not a default: somebody meant to cache nothing.
    """
    return _read({f.option: options[f.option] for f in FIELDS if options.get(f.option) not in (None, "")}, "option")


def from_config_map(data: Mapping[str, str]) -> Reading:
    """Read a ConfigMap's data, or a process environment (``envFrom``); absent keys mean the default."""
    raw = {f.option: data[f.key] for f in FIELDS if f.key in data}
    return _read({option: value for option, value in raw.items() if option == "images" or value.strip()}, "key")


def to_config_map(settings: Settings) -> dict[str, str]:
    """Print the settings as a ConfigMap's data in one canonical form; every key of the known contract is there."""
    texts = {f.key: f.show(getattr(settings, f.option)) for f in FIELDS}
    return {f.key: texts[f.key] for f in FIELDS if texts[f.key] or not f.optional}


def to_options(settings: Settings) -> dict[str, Any]:
    """Print the settings as module options: plain lists, mappings and texts."""
    options: dict[str, Any] = {f.option: getattr(settings, f.option) for f in FIELDS}
    options["images"] = [{"name": image.name, "image": image.image} for image in settings.images]
    options["tolerations"] = list(settings.tolerations)
    options["image_pull_secrets"] = list(settings.image_pull_secrets)
    return options


def require(reading: Reading) -> Settings:
    """The settings of a reading without any problem; :class:`InvalidSettings` names all of them otherwise."""
    if reading.problems or reading.settings is None:
        raise InvalidSettings(reading.problems)
    return reading.settings


def _read(raw: Mapping[str, Any], form: str) -> Reading:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    names = {f.option: getattr(f, form) for f in FIELDS}
    for setting in FIELDS:
        if setting.option in raw:
            reader = _Reader(names[setting.option], raw[setting.option])
            values[setting.option] = setting.read(reader)
            problems += reader.problems
            notes += reader.notes
    problems += _limit_problems({**DEFAULTS, **values}, values, names)
    if any(problem.whole for problem in problems):
        return Reading(None, tuple(problems), tuple(notes))
    return Reading(Settings(**{"images": DEFAULT_IMAGES, **values}), tuple(problems), tuple(notes))


def _limit_problems(values: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str]) -> list[Problem]:
    problems = []
    for resource in ("memory", "cpu"):
        request, limit = f"caching_{resource}_request", f"caching_{resource}_limit"
        try:
            too_much = parse_quantity(values[request]) > parse_quantity(values[limit])
        except ValueError:
            continue  # Said already, by the quantity itself.
        if too_much:
            default = "" if limit in given else ", which is the default"
            problems.append(
                Problem(
                    names[request],
                    values[request],
                    f"it is above the limit {names[limit]} ({values[limit]}{default})",
                    f"lower {names[request]}, or raise {names[limit]} to at least {values[request]}",
                )
            )
    return problems
