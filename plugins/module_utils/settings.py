# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of one image set: read from module options, a ConfigMap or an environment, printed back to each.

The forms differ in names and in text against structure; the rules are the same and live here. Reading never stops at
the first problem. A problem that spoils one entry leaves the others usable, one that spoils the whole set does not.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.images import (
    InvalidReference,
    parse_reference,
    split_entries,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity

try:
    import yaml
except ImportError:  # The pure core needs only the standard library; without PyYAML texts are read as JSON.
    yaml = None  # type: ignore[assignment]

# How an image is held on a node; auto: by image_volume where the whole cluster can, else by sleep.
SLEEP, IMAGE_VOLUME, AUTO = STRATEGIES = ("sleep", "image_volume", "auto")
# What is done about tags that are moved in their registry.
REFRESH_DIGEST, REFRESH_RESTART, REFRESH_NEVER = REFRESHES = ("digest", "restart", "never")
HELPER_IMAGE = "ghcr.io/kubecache/image-puller-helper:1.0.0"
CONFIG_MAP_NAME = "k8s-image-puller"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
# Labels of the cache's pods by which we, and the DaemonSet controller, know them; besides kubecache.io/*.
OUR_LABELS = frozenset(
    {
        *(f"app.kubernetes.io/{name}" for name in ("name", "managed-by", "component")),
        *("controller-revision-hash", "pod-template-generation"),
    }
)
# The annotations with which older API servers take a pod's confinement away.
_PROFILES = ("container.apparmor.security.beta.kubernetes.io/", "seccomp.security.alpha.kubernetes.io/")


@dataclass(frozen=True)
class CachedImage:
    """One entry of the list: the container's name and the reference that consumers use."""

    name: str
    image: str


@dataclass(frozen=True)
class Settings:
    """Everything that one image set is made from. Quantities and references are kept as they were written.

    ``pod_resources`` is found and not written: whether the API server has resources of a pod as a whole.
    """

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
    new_node_grace: str = "60"
    progress_grace: str = "600"
    priority_class_name: str = ""
    cache_service_account_name: str = ""
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)
    runtime_class_name: str = ""
    strategy: str = SLEEP
    pod_resources: bool = True
    refresh: str = REFRESH_DIGEST


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
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError):  # Keys that JSON does not know, or a structure that holds itself.
        return str(value)


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

    def structure(self, wanted: type[dict[str, Any]] | type[list[Any]], example: str) -> Any:
        """The value itself, or what its JSON or YAML text says; None for null, and after a problem was noted."""
        try:
            value = _load(self.raw) if isinstance(self.raw, str) else _plain(self.raw)
        except ValueError as error:
            self.refuse(str(error), f"write {_TYPE_NAMES[wanted]} such as {example}")
            return None
        if value is not None and not isinstance(value, wanted):
            self.refuse(
                f"it is {_name_type(value)}, not {_TYPE_NAMES[wanted]}",
                f"write {_TYPE_NAMES[wanted]} such as {example}",
            )
            return None
        return value


_TYPE_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a JSON object",
    list: "a JSON list",
    type(None): "null",
}


def _name_type(value: object) -> str:
    return _TYPE_NAMES.get(type(value)) or type(value).__name__


def _load(text: str) -> Any:
    """What a JSON or YAML text says, in the types of JSON; ValueError says why it says nothing."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if yaml is None:
            raise ValueError(f"it is no JSON ({error})") from None
    try:
        # An alias lets a short text stand for a structure that never ends.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise yaml.YAMLError("aliases are not supported here")
        return _plain(yaml.safe_load(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"it is neither JSON nor YAML ({_yaml_reason(error)})") from None


def _yaml_reason(error: Exception) -> str:
    """PyYAML's words without its picture of the text."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return " ".join(str(getattr(error, "problem", None) or error).split()) + where


def _plain(value: object) -> Any:
    """A copy in the types of JSON: what YAML took for a date is a text again."""
    try:
        return json.loads(json.dumps(value, default=str))
    except TypeError:
        raise ValueError("it has a key that is no text") from None


# --- single values ---------------------------------------------------------------------------------------------------
# What is refused is given back as it was written: nobody uses it, since such a problem spoils the whole set.


def _namespace(read: _Reader) -> str:
    text = str(read.raw).strip()
    if not _LABEL.fullmatch(text):
        read.refuse(
            "it is no name of a namespace (a DNS-1123 label of at most 63 characters)",
            f"write {_suggest_name(text, 'k8s-image-puller')!r}, or other lower case letters, digits and '-'",
        )
    return text


def _object_name(read: _Reader) -> str:
    text = str(read.raw).strip()
    # The name is a label value too, hence 63 characters rather than the 253 of a DNS subdomain.
    if len(text) > 63 or not _SUBDOMAIN.fullmatch(text):
        read.refuse(
            "it is no name of a Kubernetes object (a DNS-1123 subdomain of at most 63 characters)",
            f"write {_suggest_name(text, 'image-puller')!r}, or other lower case letters, digits, '-' and '.'",
        )
    return text


def _label(read: _Reader) -> str:
    text = str(read.raw).strip()
    if not _LABEL.fullmatch(text):
        read.refuse(
            "it is no DNS-1123 label (at most 63 lower case letters, digits and '-')",
            f"write {_suggest_name(text, 'gpu')!r}, or another such name",
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
        return text
    return f"{hours.normalize():f}"


def _quantity(read: _Reader) -> str:
    text = str(read.raw).strip()
    try:
        if parse_quantity(text) < 0:
            read.refuse("a quantity is not negative", "write 0 or more, for example 10Mi or .05")
    except ValueError:
        read.refuse(
            "it is no Kubernetes quantity", "write a number and a unit without a space, such as 20Mi, 50m or .05"
        )
    return text


def _helper_image(read: _Reader) -> str:
    text = str(read.raw).strip()
    try:
        parse_reference(text)
    except InvalidReference as error:
        read.refuse(error.what, error.remedy)
    return text


def _max_unavailable(read: _Reader) -> str:
    text = str(read.raw).strip()
    match = re.fullmatch(r"([0-9]{1,6})(%?)", text)
    number = int(match.group(1)) if match else 0
    if not match or number < 1 or (match.group(2) and number > 100):
        read.refuse("it is neither a number of nodes nor a percentage of them", "write 1 or more, or 1% to 100%")
        return text
    return f"{number}{match.group(2)}"


def _seconds(read: _Reader) -> str:
    text = str(read.raw).strip()
    if not re.fullmatch(r"[0-9]{1,6}", text):
        read.refuse("it is no number of seconds", "write a whole number such as 60 or 600 (0 to 999999)")
        return text
    return str(int(text))


def _strategy(read: _Reader) -> str:
    text = str(read.raw).strip()
    if text not in STRATEGIES:
        close = difflib.get_close_matches(text.lower().replace("-", "_"), STRATEGIES, n=1)
        remedy = f"write {close[0]}" if close else f"write one of {', '.join(STRATEGIES)}"
        read.refuse("it is no strategy", remedy)
    return text


def _refresh(read: _Reader) -> str:
    text = str(read.raw).strip()
    if text not in REFRESHES:
        close = difflib.get_close_matches(text.lower(), REFRESHES, n=1)
        remedy = f"write {close[0]}" if close else f"write one of {', '.join(REFRESHES)}"
        read.refuse("it is no way to refresh tags", remedy)
    return text


# --- lists and structures --------------------------------------------------------------------------------------------


_IMAGES_EXAMPLE = "java11=registry.example.com/team/java11:2.1"


def _images(read: _Reader) -> tuple[CachedImage, ...]:
    entries = _entries(read)
    if entries is None:
        return ()
    if not entries:
        read.refuse("the list is empty", f"name at least one image, for example {_IMAGES_EXAMPLE}")
        return ()
    found: dict[str, CachedImage] = {}
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        image = _image_entry(read, number, entry)
        if image is None:
            continue
        if image.name in found:
            same = found[image.name] == image
            read.refuse(
                f"the name {image.name!r} was used before, in entry {numbers[image.name]}",
                "remove one of the two" if same else f"write another name, for example {image.name[:57]}-{number}",
                value=f"{image.name}={image.image}",
                entry=number,
                whole=False,
            )
        found[image.name] = image  # The last one wins, where problems of entries are tolerated at all.
        numbers[image.name] = number
    _note_same_images(read, found)
    if not found:
        # Entries were there and every one was refused: nothing remains that could be cached.
        read.problems = [replace(problem, whole=True) for problem in read.problems]
    return tuple(found.values())


def _entries(read: _Reader) -> list[Any] | None:
    """The entries of the list, not looked at yet; None after a problem was noted."""
    raw = read.raw
    if isinstance(raw, str):
        if raw.lstrip()[:1] not in ("[", "{"):
            return list(split_entries(raw))
        try:
            raw = _load(raw)
        except ValueError as error:
            read.refuse(str(error), f"write {_IMAGES_EXAMPLE}")
            return None
    if isinstance(raw, Mapping):
        return [{"name": name, "image": image} for name, image in raw.items()]
    if isinstance(raw, (list, tuple)):
        return list(raw)
    read.refuse(
        "it is no list of images", f"write {_IMAGES_EXAMPLE}, a list of {{name, image}}, or a mapping name: image"
    )
    return None


def _image_entry(read: _Reader, number: int, entry: Any) -> CachedImage | None:
    def refuse(what: str, remedy: str) -> None:
        read.refuse(what, remedy, value=shown, entry=number, whole=False)

    shown: Any = entry
    if isinstance(entry, str):
        name, equals, image = (part.strip() for part in entry.partition("="))
        if not equals:
            refuse("there is no '=' between name and image", f"write {_suggest_entry(entry)}")
            return None
    elif isinstance(entry, Mapping):
        unknown = sorted(str(key) for key in entry if key not in ("name", "image"))
        if unknown or not isinstance(entry.get("name"), str) or not isinstance(entry.get("image"), str):
            what = (
                f"the field {', '.join(unknown)} is unknown"
                if unknown
                else "name and image must both be there and be texts"
            )
            refuse(what, "write {name: java11, image: registry.example.com/team/java11:2.1}")
            return None
        name, image = entry["name"].strip(), entry["image"].strip()
        shown = f"{name}={image}"
    else:
        refuse(f"it is {_name_type(entry)}, not an image", f"write {_IMAGES_EXAMPLE}")
        return None
    good = bool(_LABEL.fullmatch(name))
    if not good:
        refuse(
            f"the name {name!r} is no DNS-1123 label (at most 63 lower case letters, digits and '-')"
            if name
            else "there is no name",
            f"write the name as {_suggest_name(name or image)!r}",
        )
    try:
        parse_reference(image)
    except InvalidReference as error:
        what = "there are two '=' in one entry" if "=" in image else error.what
        refuse(what, "put ';' between two entries" if "=" in image else error.remedy)
        good = False
    return CachedImage(name, image) if good else None


def _suggest_entry(text: str) -> str:
    """What an entry without ``=`` was probably meant to be."""
    named = re.fullmatch(r"(\S+?):?\s+(\S+)", text)  # "name: image", "name image"
    name, image = named.groups() if named else (text, text)
    try:
        parse_reference(image)
    except InvalidReference:
        return f"name=image, for example {_IMAGES_EXAMPLE}"
    if not named and not re.search(r"[/:@]", image):
        return f"{_suggest_name(name)}=registry/repository:tag"
    return f"'{_suggest_name(name)}={image}'"


def _suggest_name(text: str, otherwise: str = "image") -> str:
    """A DNS-1123 label that resembles the text; of an image reference, its last component without tag."""
    last = re.split(r"[:@]", text.rpartition("/")[2], maxsplit=1)[0]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:63].strip("-") or otherwise


def _note_same_images(read: _Reader, found: Mapping[str, CachedImage]) -> None:
    names: dict[str, list[str]] = {}
    for image in found.values():
        names.setdefault(str(parse_reference(image.image)), []).append(image.name)
    for image_text, used in names.items():
        if len(used) > 1:
            read.notes.append(
                f"{read.key}: {image_text} is there {len(used)} times ({', '.join(used)}); once is enough"
            )


def _image_pull_secrets(read: _Reader) -> tuple[str, ...]:
    raw = read.raw
    parts = re.split(r"[;,\s]+", raw) if isinstance(raw, str) else raw
    if not isinstance(parts, (list, tuple)):
        read.refuse("it is no list of names", "write the names of the Secrets, separated by ';'")
        return ()
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    for name in names:
        if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
            read.refuse(
                f"{name!r} is no name of a Secret",
                "use lower case letters, digits, '-' and '.', with a letter or digit at both ends",
            )
    return names


def _qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return bool(_QUALIFIED.fullmatch(name)) and (
        not slash or (len(prefix) <= 253 and bool(_SUBDOMAIN.fullmatch(prefix)))
    )


def _text_mapping(read: _Reader, example: str) -> dict[str, str]:
    value: dict[str, Any] = read.structure(dict, example) or {}
    for key, text in value.items():
        if not _qualified_name(key):
            read.refuse(
                f"{key!r} is no key of a label or an annotation",
                "use at most 63 letters, digits, '-', '_' and '.', and before them a DNS name and '/' if you like",
            )
        elif not isinstance(text, str):
            meant = json.dumps({key: _text(text)})
            read.refuse(f"the value of {key} is {_name_type(text)}, not a text", f"write {meant}")
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _annotations(read: _Reader) -> dict[str, str]:
    return _text_mapping(read, '{"example.com/team": "platform"}')


def _labels(read: _Reader, example: str) -> dict[str, str]:
    value = _text_mapping(read, example)
    for key, text in value.items():
        if not _LABEL_VALUE.fullmatch(text):
            read.refuse(
                f"{text!r} is no value of a label ({key})",
                "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )
    return value


def _refuse_ours(read: _Reader, keys: Iterable[str], reserved: Collection[str], what: str) -> None:
    for key in keys:
        if key in reserved or key.startswith("kubecache.io/"):
            read.refuse(f"{key} is {what} that the cache's pods have for another purpose", "leave it out")


def _pod_labels(read: _Reader) -> dict[str, str]:
    value = _labels(read, '{"cost-center": "4711"}')
    _refuse_ours(read, value, OUR_LABELS, "a label")
    return value


def _pod_annotations(read: _Reader) -> dict[str, str]:
    value = _text_mapping(read, '{"sidecar.istio.io/inject": "false"}')
    _refuse_ours(read, value, (), "an annotation")
    for key, text in value.items():
        if key.startswith(_PROFILES) and text == "unconfined":
            read.refuse(f"{key} would take a protection from the pods that Pod Security asks for", "leave it out")
    return value


def _node_selector(read: _Reader) -> dict[str, str]:
    value = _labels(read, '{"disktype": "ssd"}')
    if value.get("kubernetes.io/os", "linux") != "linux":
        read.refuse("the cache runs on Linux nodes only", 'leave "kubernetes.io/os" out, or write "linux"')
    return value


def _tolerations(read: _Reader) -> tuple[dict[str, Any], ...]:
    example = '[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]'
    tolerations: list[Any] = read.structure(list, example) or []
    for number, toleration in enumerate(tolerations, 1):
        for what, remedy in _toleration_problems(toleration):
            read.refuse(what, remedy, value=toleration, entry=number)
    # The API server does not keep empty fields.
    return tuple({k: v for k, v in t.items() if v != ""} for t in tolerations if isinstance(t, dict))


def _toleration_problems(toleration: Any) -> list[tuple[str, str]]:
    """The rules of core/v1 Toleration."""
    shape = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
    problems = _shape_problems(toleration, shape, "")
    if problems:
        return problems
    key, value, effect = (toleration.get(name, "") for name in ("key", "value", "effect"))
    operator = toleration.get("operator") or "Equal"
    if operator not in ("Exists", "Equal", "Lt", "Gt"):
        problems.append((f"the operator {operator!r} is unknown", "write Exists or Equal"))
    if key and not _qualified_name(key):
        problems.append((f"{key!r} is no key of a taint", "write the key of the node's taint"))
    if not key and operator != "Exists":
        problems.append(
            ("a toleration without a key needs the operator Exists", "name the key, or write operator Exists")
        )
    if operator == "Exists" and value:
        problems.append(("the operator Exists takes no value", "remove the value, or write operator Equal"))
    elif not _LABEL_VALUE.fullmatch(value):
        problems.append((f"{value!r} is no value of a taint", "write the value of the node's taint"))
    if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        problems.append(
            (f"the effect {effect!r} is unknown", "write NoSchedule, PreferNoSchedule or NoExecute, or leave it out")
        )
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        problems.append(("tolerationSeconds needs the effect NoExecute", "remove it, or write effect NoExecute"))
    return problems


_Problems = list[tuple[str, str]]
_VALUES = {"In": "some", "NotIn": "some", "Exists": "no", "DoesNotExist": "no", "Gt": "one", "Lt": "one"}


def _text_rule(fits: Callable[[str], object], what: str) -> Callable[[Any, str], _Problems]:
    """The rule that a value is a text that fits."""

    def problems(value: Any, path: str) -> _Problems:
        found = _shape_problems(value, str, path)
        return found or ([] if fits(value) else [(f"{path} {value!r} is no {what}", f"write the {what} that you mean")])

    return problems


_label_key = _text_rule(_qualified_name, "key of a label")
_label_value = _text_rule(_LABEL_VALUE.fullmatch, "value of a label")
_namespace_name = _text_rule(_LABEL.fullmatch, "name of a namespace")


def _requirement(operators: Sequence[str], rule: Any = _label_value) -> Callable[[Any, str], _Problems]:
    """The rules of a selector's requirement that allows these operators, and values that follow the rule."""

    def problems(value: Any, path: str) -> _Problems:
        found = _shape_problems(value, {"key*": _label_key, "operator*": str, "values": [rule]}, path)
        if found:
            return found
        operator, count = value["operator"], len(value.get("values") or ())
        if operator not in operators:
            found.append((f"{path}.operator {operator!r} is unknown", f"write one of {', '.join(operators)}"))
        elif _VALUES[operator] == "no" and count:
            found.append((f"{path}: the operator {operator} takes no values", "remove the values"))
        elif (_VALUES[operator] == "some" and not count) or (_VALUES[operator] == "one" and count != 1):
            needed = "one number" if _VALUES[operator] == "one" else "at least one value"
            found.append((f"{path}: the operator {operator} needs {needed}", f'list {needed} in "values"'))
        return found

    return problems


def _node_field(value: Any, path: str) -> _Problems:
    found = _requirement(("In", "NotIn"), str)(value, path)
    if not found and (value["key"] != "metadata.name" or len(value["values"]) != 1):
        return [(f"{path} is no field of a node", 'write {"key": "metadata.name", ...} with one value, a node\'s name')]
    return found


def _weight(value: Any, path: str) -> _Problems:
    found = _shape_problems(value, int, path)
    return found or ([] if 1 <= value <= 100 else [(f"{path} is {value}", "write a weight from 1 to 100")])


_NODE_TERM = {
    "matchExpressions": [_requirement(tuple(_VALUES))],
    "matchFields": [_node_field],
}
_LABEL_SELECTOR = {
    "matchLabels": {None: _label_value},
    "matchExpressions": [_requirement(("In", "NotIn", "Exists", "DoesNotExist"))],
}
_POD_TERM = {
    "labelSelector": _LABEL_SELECTOR,
    "namespaceSelector": _LABEL_SELECTOR,
    "namespaces": [_namespace_name],
    "topologyKey*": _label_key,
    "matchLabelKeys": [str],
    "mismatchLabelKeys": [str],
}
_POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_POD_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight*": _weight, "podAffinityTerm*": _POD_TERM}],
}
# The fields of core/v1 Affinity, with "*" behind those that must be there.
_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms*": [_NODE_TERM]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight*": _weight, "preference*": _NODE_TERM}],
    },
    "podAffinity": _POD_AFFINITY,
    "podAntiAffinity": _POD_AFFINITY,
}


def _affinity(read: _Reader) -> dict[str, Any]:
    example = '{"nodeAffinity": {...}} with the fields of a pod\'s affinity'
    value: dict[str, Any] = read.structure(dict, example) or {}
    problems = _shape_problems(value, _AFFINITY, "")
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if not problems and value.get("nodeAffinity", {}).get(required, {}).get("nodeSelectorTerms") == []:
        problems.append((f"nodeAffinity.{required}.nodeSelectorTerms is empty", "name a term, or leave the field out"))
    for what, remedy in problems:
        read.refuse(what, remedy)
    return {} if problems else value


def _shape_problems(value: Any, shape: Any, path: str) -> _Problems:
    """Compare a value with a shape: a type, ``[item]``, ``{field: shape}``, ``{None: shape}`` for any field, or a rule.

    A field whose name ends with ``*`` must be there.
    """
    if callable(shape) and not isinstance(shape, type):
        found: _Problems = shape(value, path)
        return found
    wanted = type(shape) if isinstance(shape, (dict, list)) else shape
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        return [(f"{path or 'it'} is {_name_type(value)}, not {_TYPE_NAMES[wanted]}", f"write {_TYPE_NAMES[wanted]}")]
    problems: _Problems = []
    if isinstance(shape, list):
        for number, item in enumerate(value):
            problems += _shape_problems(item, shape[0], f"{path}[{number}]")
    elif isinstance(shape, dict):
        known = {name.rstrip("*"): item for name, item in shape.items() if name}
        for name, item in dict(value).items():
            where = f"{path}.{name}" if path else name
            if None in shape or name in known:
                problems += _shape_problems(item, shape[None] if None in shape else known[name], where)
            else:
                close = difflib.get_close_matches(name, known, n=1)
                remedy = f"write {close[0]}" if close else f"use {', '.join(known)}"
                problems.append((f"the field {where} is unknown", remedy))
        missing = [name[:-1] for name in shape if name and name.endswith("*") and name[:-1] not in value]
        problems += [(f"{path or 'it'} lacks the field {name}", f"write {name}") for name in missing]
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

    @property
    def spec(self) -> str:
        """Its name in the spec of a custom resource: cachingCPULimit for caching_cpu_limit."""
        first, *words = self.option.split("_")
        return first + "".join("CPU" if word == "cpu" else word.capitalize() for word in words)


def format_images(images: Sequence[CachedImage]) -> str:
    """The canonical IMAGES text: ``name=image;name=image``."""
    return ";".join(f"{image.name}={image.image}" for image in images)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _json_or_nothing(value: object) -> str:
    return _json(value) if value else ""


def _unless(default: str) -> Callable[[Any], str]:
    """Prints nothing for the default, so that a set which does not use the setting stays the same to the byte."""
    return lambda value: "" if value == default else str(value)


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
    Field("new_node_grace", "NEW_NODE_GRACE_SECONDS", _seconds, optional=True),
    Field("progress_grace", "PROGRESS_GRACE_SECONDS", _seconds, optional=True),
    Field("priority_class_name", "PRIORITY_CLASS", _object_name, optional=True),
    Field("cache_service_account_name", "CACHE_SERVICE_ACCOUNT", _object_name, optional=True),
    Field("pod_labels", "POD_LABELS", _pod_labels, _json_or_nothing, optional=True),
    Field("pod_annotations", "POD_ANNOTATIONS", _pod_annotations, _json_or_nothing, optional=True),
    Field("runtime_class_name", "RUNTIME_CLASS", _object_name, optional=True),
    Field("strategy", "STRATEGY", _strategy, _unless(SLEEP), optional=True),
    Field("refresh", "REFRESH", _refresh, _unless(REFRESH_DIGEST), optional=True),
)
DEFAULTS = {f.option: getattr(Settings(DEFAULT_IMAGES), f.option) for f in FIELDS}


def from_options(options: Mapping[str, Any]) -> Reading:
    """Read module options; None and an empty text (a survey's unanswered question) mean the default.

    An empty list or mapping of images is a problem, not a default: somebody meant to cache nothing.
    """
    return _read({f.option: options[f.option] for f in FIELDS if not _is_unset(f, options.get(f.option))}, "option")


def from_config_map(data: Mapping[str, str]) -> Reading:
    """Read a ConfigMap's data, or a process environment (``envFrom``); absent keys mean the default."""
    return _read(
        {f.option: data[f.key] for f in FIELDS if f.key in data and (f.key == "IMAGES" or data[f.key].strip())}, "key"
    )


def from_spec(spec: Mapping[str, Any], namespace: str) -> Reading:
    """Read the spec of a custom resource in this namespace; absent and empty texts mean the default."""
    given = {f.option: spec[f.spec] for f in FIELDS if str(spec.get(f.spec) or "").strip()}
    return _read({**given, "namespace": namespace}, "spec")


def _is_unset(setting: Field, value: object) -> bool:
    blank = isinstance(value, str) and not value.strip()
    return value is None or value == "" or (blank and setting.option != "images")


def to_config_map(settings: Settings) -> dict[str, str]:
    """Print the settings as a ConfigMap's data in one canonical form; every key of the known contract is there."""
    texts = {f.key: f.show(getattr(settings, f.option)) for f in FIELDS}
    return {f.key: texts[f.key] for f in FIELDS if texts[f.key] or not f.optional}


def to_spec(settings: Settings) -> dict[str, str]:
    """Print the settings as the spec of a custom resource, which lives in their namespace: all that is no default."""
    texts = {f.spec: (f.show(getattr(settings, f.option)), f.show(DEFAULTS[f.option])) for f in FIELDS}
    texts.pop("namespace")
    return {name: text for name, (text, default) in texts.items() if text != default or name == "images"}


def fingerprint(settings: Settings) -> str:
    """A short text that is the same for equal settings: by it is told which settings a verdict is about."""
    text = json.dumps(to_config_map(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
            too_much = parse_quantity(values[request]) > parse_quantity(values[limit]) >= 0
        except ValueError:
            continue  # Said already, by the quantity itself, as is a negative one.
        if too_much:
            # The problem belongs to what was written; the other one may be a default that nobody ever saw.
            wrong, other, side = (
                (request, limit, "above the limit") if request in given else (limit, request, "below the request")
            )
            default = "" if other in given else ", the default"
            lower, higher = f"lower {names[request]}", f"raise {names[limit]}"
            remedy = f"{lower}, or {higher} to at least {values[request]}"
            what = f"it is {side} {names[other]} ({values[other]}{default})"
            problems.append(Problem(names[wrong], values[wrong], what, remedy))
    return problems


_KINDS: dict[str, Callable[[_Reader], Any]] = {
    "image": _helper_image,
    "label": _label,
    "name": _object_name,
    "namespace": _namespace,
    "quantity": _quantity,
}


def check(option: str, value: object, kind: str) -> tuple[Problem, ...]:
    """The problems of an option that is no setting: ``kind`` is image, label, name, namespace or quantity."""
    reader = _Reader(option, value)
    _KINDS[kind](reader)
    return tuple(reader.problems)


def read_list(
    option: str, value: object, fields_of_entry: Mapping[str, Any], example: str
) -> tuple[list[Any], list[Problem]]:
    """A list of mappings, or its JSON or YAML text, with what is wrong with it and with the fields of its entries.

    :param fields_of_entry: name -> type, ``object`` where any will do; ``*`` behind a name: it must be there.
    """
    reader = _Reader(option, value)
    entries: list[Any] = reader.structure(list, example) or []
    for number, entry in enumerate(entries, 1):
        for what, remedy in _shape_problems(entry, dict(fields_of_entry), ""):
            reader.refuse(what, remedy, value=entry, entry=number)
    return entries, reader.problems


def read_mapping(
    option: str, value: object, fields_of_it: Mapping[Any, Any], example: str
) -> tuple[dict[str, Any], list[Problem]]:
    """A mapping, or its JSON or YAML text (empty: nothing), with what is wrong with it and with its fields.

    :param fields_of_it: a shape as :func:`_shape_problems` has it.
    """
    reader = _Reader(option, value)
    if value in (None, ""):
        return {}, []
    found: dict[str, Any] = reader.structure(dict, example) or {}
    for what, remedy in _shape_problems(found, dict(fields_of_it), ""):
        reader.refuse(what, remedy)
    return found, reader.problems
