# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The custom resource KubernetesImagePuller: its definition, what it asks for, and what its status tells. Pure.

Its spec is the third form of the settings, whose rules live in ``settings``; here is what it says of the installation.
The names and capitals of the known fields are a contract; those that are ours are called after the options.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation as objects
from ansible_collections.kubecache.image_puller.plugins.module_utils.access import read_registry_access
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import reference_to
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import not_followed, read_published
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import (
    Installation,
    RegistryAccess,
    Resources,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS, is_ours, metadata
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULTS,
    FIELDS,
    STRATEGIES,
    Problem,
    Settings,
    check,
    fingerprint,
    from_spec,
    to_spec,
)

GROUP, VERSION, KIND, PLURAL = "che.eclipse.org", "v1alpha1", "KubernetesImagePuller", "kubernetesimagepullers"
API_VERSION = f"{GROUP}/{VERSION}"
CRD_NAME = f"{PLURAL}.{GROUP}"
#: What a cluster whose definition comes from the known project understands.
KNOWN_FIELDS = (
    "configMapName",
    "daemonsetName",
    "deploymentName",
    "imagePullerImage",
    "images",
    "cachingIntervalHours",
    "cachingMemoryRequest",
    "cachingMemoryLimit",
    "cachingCPURequest",
    "cachingCPULimit",
    "nodeSelector",
    "imagePullSecrets",
    "affinity",
    "tolerations",
)
# The last part of the names under which the known controller is published, here and there with a version behind.
_KNOWN_IMAGES = ("kubernetes-image-puller", "imagepuller-rhel")
_FAILURES = 5
_OURS = ("verdict", "progress", "images", "nodes", "cached", "pulling", "waiting", "failed", "failures")
_LONGEST = 1024  # Characters of a condition's message.

# --- the definition --------------------------------------------------------------------------------------------------

# What a text has to look like, so that the API server can say what is wrong with it; empty text is the default.
_SHAPES = {
    "images": (r"^(\s*|(?s:.*)=(?s:.*)|\s*[\[{](?s:.*))$", "write name=image;name=image"),
    "object": (r"^\s*(\{(?s:.*)\}|null)?\s*$", "write a JSON object such as {}, with quotes around names and values"),
    "list": (r"^\s*(\[(?s:.*)\]|null)?\s*$", "write a JSON list such as [], with quotes around names and values"),
    "name": (
        r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$",
        "write the name of a Kubernetes object: lower case letters, digits, '-' and '.'",
    ),
    "names": (r"^[-a-z0-9.;\s]*$", "write the names of Secrets with ';' between two of them"),
    "image": (r"^\S*$", "write the reference of an image, without white space"),
    "quantity": (
        r"^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE])?)?$",
        "write a Kubernetes quantity: a number and a unit without a space, such as 20Mi, 50m or .05",
    ),
    "hours": (r"^([0-9]*\.?[0-9]*[1-9][0-9]*(\.[0-9]*)?)?$", "write a number of hours above 0, such as 1 or 0.5"),
    "part": (r"^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)?$", "write a number of nodes, or 1% to 100% of them"),
    "strategy": (rf"^({'|'.join(STRATEGIES)})?$", f"write one of {', '.join(STRATEGIES)}"),
    "refresh": (r"^(digest|restart|never)?$", "write digest, restart or never"),
    "hosts": (r"^[-\w.:/\[\];,\s]*$", "write registries as host:port with ';' between two of them"),
    "seconds": (r"^[0-9]{0,6}$", "write a whole number of seconds, such as 60"),
}
_LENGTHS = {"images": 524288, "object": 262144, "list": 262144}
# Field -> shape, and what it is for.
_ABOUT = {
    "configMapName": ("name", "Name of the ConfigMap that holds the settings."),
    "daemonsetName": ("name", "Name of the DaemonSet that holds the images on the nodes."),
    "deploymentName": ("name", "Name of the controller's Deployment."),
    "imagePullerImage": (
        "image",
        "Image of the controller. Where it is one of the known implementation, the operator runs its own instead and "
        "says so.",
    ),
    "images": ("images", "The images to cache, as name=image with ';' between two of them. Names are DNS labels."),
    "cachingIntervalHours": ("hours", "Hours between two checks that nothing has caused; decimals are understood."),
    "cachingMemoryRequest": ("quantity", "Memory that is reserved for each cached image on each node."),
    "cachingMemoryLimit": ("quantity", "Memory that each cached image's container may use."),
    "cachingCPURequest": ("quantity", "CPU that is reserved for each cached image on each node."),
    "cachingCPULimit": ("quantity", "CPU that each cached image's container may use."),
    "nodeSelector": ("object", "Labels of the nodes on which images are cached, as a JSON object."),
    "imagePullSecrets": ("names", "Secrets with logins for registries, with ';' between two of them."),
    "affinity": ("object", "Affinity of the cache's pods, as a JSON object with the fields of a pod's affinity."),
    "tolerations": ("list", "Tolerations of the cache's pods, as a JSON list."),
    "daemonsetAnnotations": ("object", "Annotations of the DaemonSet, as a JSON object."),
    "helperImage": ("image", "Image from which each node takes the program that sleeps in place of the images' own."),
    "maxUnavailable": ("part", "On how many nodes a change may be under way at a time, a number or a percentage."),
    "strategy": ("strategy", "How an image is held on a node: sleep, image_volume, or auto."),
    "newNodeGrace": ("seconds", "Seconds until a node that has joined counts."),
    "progressGrace": ("seconds", "Seconds without progress until what is still to come is called a failure."),
    "priorityClassName": ("name", "PriorityClass of the cache's pods; it has to exist."),
    "cacheServiceAccountName": ("name", "ServiceAccount of the cache's pods; it needs no rights."),
    "podLabels": ("object", "Further labels of the cache's pods, as a JSON object."),
    "podAnnotations": ("object", "Further annotations of the cache's pods, as a JSON object."),
    "runtimeClassName": ("name", "RuntimeClass of the cache's pods; it has to exist."),
    "refresh": ("refresh", "What is done about tags that are moved in their registry: digest, restart or never."),
    "serviceAccountName": ("name", "ServiceAccount of the controller."),
    "deploymentPriorityClassName": ("name", "PriorityClass of the controller's pod; it has to exist."),
    "registryMirrors": (
        "object",
        "Where the controller asks for images before their registry, as a JSON object from a registry (or the "
        "beginning of a path there) to what stands in its place, or a list of that.",
    ),
    "registryInsecure": (
        "hosts",
        "Registries whose certificate the controller need not trust, with ';' between two of them; with http:// in "
        "front they are asked without TLS.",
    ),
    "registryCAConfigMap": (
        "name",
        "ConfigMap with certificates in the form PEM, which the controller trusts besides those of the system.",
    ),
    "registryProxy": (
        "object",
        "Proxies on the controller's way to registries, as a JSON object with HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
    ),
    "deploymentCPURequest": ("quantity", "CPU that is reserved for the controller."),
    "deploymentMemoryRequest": ("quantity", "Memory that is reserved for the controller."),
    "deploymentCPULimit": ("quantity", "CPU that the controller may use."),
    "deploymentMemoryLimit": ("quantity", "Memory that the controller may use."),
}
# What the spec says of the installation -> where it goes, and the rule of ``settings.check`` for it.
_INSTALLATION = {
    "configMapName": ("config_map_name", "name"),
    "deploymentName": ("deployment_name", "name"),
    "serviceAccountName": ("service_account_name", "name"),
    "imagePullerImage": ("image", "image"),
    "deploymentPriorityClassName": ("deployment_priority_class_name", "name"),
}
_RESOURCES = {
    "deploymentCPURequest": "cpu_request",
    "deploymentMemoryRequest": "memory_request",
    "deploymentCPULimit": "cpu_limit",
    "deploymentMemoryLimit": "memory_limit",
}
# Option of the controller's way to registries -> its field.
_REGISTRIES = {
    "registry_mirrors": "registryMirrors",
    "registry_insecure": "registryInsecure",
    "registry_ca_config_map": "registryCAConfigMap",
    "registry_proxy": "registryProxy",
}


def spec_fields() -> tuple[str, ...]:
    """All fields of the spec: the known ones in their order, then ours."""
    settings = [f.spec for f in FIELDS if f.option != "namespace"]
    return tuple(dict.fromkeys((*KNOWN_FIELDS, *settings, *_INSTALLATION, *_REGISTRIES.values(), *_RESOURCES)))


def default_of(field: str) -> str:
    """The text that a field has where it is left out; empty where that means that nothing is asked for."""
    if field == "cacheServiceAccountName":
        return objects.CACHE_SERVICE_ACCOUNT_NAME
    if field in _INSTALLATION:
        return str(getattr(Installation(), _INSTALLATION[field][0]))
    if field in _RESOURCES:
        return str(getattr(Resources(), _RESOURCES[field]))
    if field in _REGISTRIES.values():
        return ""
    setting = next(f for f in FIELDS if f.spec == field)
    default = DEFAULTS[setting.option]
    return setting.show(default) or (default if isinstance(default, str) else "")


def about(field: str) -> str:
    """What a field of the spec is for, with its default."""
    text = _ABOUT[field][1]
    default = default_of(field)
    return f"{text} Default: {default}" if default else f"{text} Default: none."


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition. Defaults are told and not written, so that they can change with a release."""
    schema = {
        "type": "object",
        "description": "Keeps container images cached on the nodes of the cluster.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "description": "The images to cache, and how. All fields are texts; what is left out or empty has its "
                "default. One resource rules in a namespace: the oldest.",
                "properties": {field: _field_schema(field) for field in spec_fields()},
            },
            "status": _status_schema(),
        },
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            _column("Cached", "string", ".status.progress", "Images on nodes that are cached, of all"),
            _column("Failed", "integer", ".status.failed"),
            _column("Nodes", "integer", ".status.nodes"),
            _column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            _column("Age", "date", ".metadata.creationTimestamp"),
        ],
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME, "labels": dict(LABELS)},
        "spec": {
            "group": GROUP,
            "names": {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower()},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _field_schema(field: str) -> dict[str, Any]:
    shape = _ABOUT[field][0]
    pattern, remedy = _SHAPES[shape]
    # A CEL string literal: only backslashes and quotes need care, and no pattern has both kinds.
    rule = f"self.matches({json.dumps(pattern)})"
    return {
        "type": "string",
        "description": about(field),
        "maxLength": _LENGTHS.get(shape, 4096),
        "x-kubernetes-validations": [{"rule": rule, "message": remedy}],
    }


def _column(name: str, type_: str, path: str, description: str = "") -> dict[str, Any]:
    return {"name": name, "type": type_, "jsonPath": path, **({"description": description} if description else {})}


def _status_schema() -> dict[str, Any]:
    def number(description: str) -> dict[str, Any]:
        return {"type": "integer", "format": "int64", "description": description}

    def text(description: str) -> dict[str, Any]:
        return {"type": "string", "description": description}

    condition = {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": text("Ready, Progressing or Degraded."),
            "status": text("True, False or Unknown."),
            "reason": text("One word."),
            "message": text("What a person should know."),
            "observedGeneration": number("Generation of the spec that it is about."),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    }
    failure = {
        "type": "object",
        "properties": {
            "name": text("The image's name."),
            "image": text("Its reference."),
            "class": text("not_found, unauthorized, unknown_host, network, rate_limit, no_space, and others."),
            "nodes": number("On how many nodes it fails so."),
            "message": text("What the kubelet says."),
        },
    }
    return {
        "type": "object",
        "description": "What is cached where, as the controller sees it.",
        "properties": {
            "imagePullerImage": text("Image of the controller that runs."),
            "observedGeneration": number("Generation of the spec that the operator has seen."),
            "verdict": text("Absent, Progressing, Healthy, Degraded, NoMatchingNodes or InvalidSettings."),
            "progress": text("Images on nodes that are cached, of all."),
            "images": number("Images of the list."),
            "nodes": number("Nodes that count."),
            "cached": number("Images on nodes that are there."),
            "pulling": number("Images on nodes that are being pulled."),
            "waiting": number("Images on nodes that are still to come."),
            "failed": number("Images on nodes that can't be had."),
            "failures": {
                "type": "array",
                "description": f"The worst failures, at most {_FAILURES}.",
                "maxItems": _FAILURES,
                "items": failure,
            },
            "conditions": {
                "type": "array",
                "description": "Ready: all images are on all nodes.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition,
            },
        },
    }


# --- what it asks for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a resource asks for: ``settings`` is None where a problem spoils the set; ``notes`` are no problems."""

    settings: Settings | None
    installation: Installation
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def read_resource(resource: Mapping[str, Any], *, openshift: bool = False) -> Asked:
    """Read a resource; each problem with the field's name."""
    spec = resource.get("spec") or {}
    reading = from_spec(spec, metadata(resource)["namespace"])
    problems = list(reading.problems)
    given = {field: str(spec[field]).strip() for field in (*_INSTALLATION, *_RESOURCES) if spec.get(field)}
    for field, text in given.items():
        problems += check(field, text, _INSTALLATION[field][1] if field in _INSTALLATION else "quantity")
    registries, wrong = read_registry_access(spec, _REGISTRIES)
    problems += wrong
    notes = list(reading.notes)
    if is_known_image(given.get("imagePullerImage", "")):
        image = given.pop("imagePullerImage")
        notes.append(f"imagePullerImage {image} is the known implementation: {objects.IMAGE} runs instead")
    named: dict[str, Any] = {_INSTALLATION[field][0]: text for field, text in given.items() if field in _INSTALLATION}
    resources = Resources(**{_RESOURCES[field]: text for field, text in given.items() if field in _RESOURCES})
    installation = Installation(**named, resources=resources, openshift=openshift, registries=registries)
    settings = reading.settings if all(not problem.whole for problem in problems) else None
    if settings and not settings.cache_service_account_name:
        settings = replace(settings, cache_service_account_name=objects.CACHE_SERVICE_ACCOUNT_NAME)
    return Asked(settings, installation, tuple(problems), tuple(notes))


def is_known_image(image: str) -> bool:
    """Whether an image is the known controller, whose Deployment is another one."""
    last = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return last.rstrip("0123456789") in _KNOWN_IMAGES


def resource_of(settings: Settings, installation: Installation, name: str) -> dict[str, Any]:
    """The resource that asks for this; only what is no default is said."""
    spec = to_spec(settings)
    parts = {
        **{field: getattr(installation, name) for field, (name, _kind) in _INSTALLATION.items()},
        **{field: getattr(installation.resources, name) for field, name in _RESOURCES.items()},
    }
    parts |= _registry_fields(installation.registries)
    spec |= {field: text for field, text in parts.items() if text != default_of(field)}
    if spec.get("cacheServiceAccountName") == objects.CACHE_SERVICE_ACCOUNT_NAME:
        del spec["cacheServiceAccountName"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": settings.namespace, "labels": dict(LABELS)},
        "spec": {field: spec[field] for field in spec_fields() if field in spec},
    }


def _registry_fields(registries: RegistryAccess) -> dict[str, str]:
    """How the controller reaches registries, as texts."""
    mapping = {"registryMirrors": registries.mirrors, "registryProxy": registries.proxy}
    texts = {field: json.dumps(value, sort_keys=True) if value else "" for field, value in mapping.items()}
    return {**texts, "registryInsecure": ";".join(registries.insecure), "registryCAConfigMap": registries.authorities}


def objects_of(
    resource: Mapping[str, Any],
    settings: Settings,
    installation: Installation,
    waiting: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """All objects that the operator keeps for a resource, owned by it, in the order in which they are applied.

    :param waiting: the other resources of the namespace, owners too: when the ruling one is deleted, the garbage
        collector leaves what one of them is about to take over.
    """
    made = [
        objects.cache_service_account(settings),
        objects.config_map(installation, settings),
        *objects.controller(installation, settings),
    ]
    for obj in made:
        obj["metadata"]["ownerReferences"] = [owner_reference(resource), *map(_reference_to, waiting)]
    return made


def owner_reference(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The resource as the owner of what it asks for."""
    return {**_reference_to(resource), "controller": True}


def _reference_to(resource: Mapping[str, Any]) -> dict[str, Any]:
    return reference_to({**resource, "apiVersion": API_VERSION, "kind": KIND})


def is_foreign(live: Mapping[str, Any]) -> bool:
    """Whether an object is somebody else's: no resource of this kind owns it, and we did not make it."""
    owners = metadata(live).get("ownerReferences") or ()
    if any(owner["kind"] == KIND and owner["apiVersion"].startswith(f"{GROUP}/") for owner in owners):
        return False
    return not is_ours(live) or any(owner.get("controller") for owner in owners)


def ruling(resources: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the resources of one namespace the one that rules: the oldest that is not being deleted."""
    staying = [resource for resource in resources if not metadata(resource).get("deletionTimestamp")]
    return min(staying, key=lambda r: (metadata(r).get("creationTimestamp", ""), metadata(r)["name"]), default=None)


# --- what its status tells -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """Why nothing is done: ``reason`` is one word, ``message`` has the remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class Seen:
    """What there is to tell about a resource.

    ``image`` is the controller's; ``problems`` of entries that were left out; ``daemonset`` the live one, None where
    there is none; ``trouble`` what keeps the controller from running; ``settings`` those that are to be in place.
    """

    image: str = ""
    refusal: Refusal | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Settings | None = None
    daemonset: Mapping[str, Any] | None = None
    trouble: str = ""
    paused: str = ""

    @property
    def hindered(self) -> tuple[str, str]:
        """One word and a sentence; empty where nothing keeps the operator or the controller from working."""
        if self.paused:
            return "Paused", self.paused
        return ("ControllerUnavailable", self.trouble) if self.trouble else ("", "")


def superseded(by: str) -> Refusal:
    """Of two resources in a namespace the younger one has to wait."""
    return Refusal(
        "Superseded", f"KubernetesImagePuller {by} is older and rules in this namespace. Remedy: delete one of the two"
    )


def status_of(resource: Mapping[str, Any], seen: Seen, now: str) -> dict[str, Any]:
    """The status of a resource.

    :param now: RFC 3339; the time of a condition that changes.
    """
    verdict = _verdict(seen)
    generation = metadata(resource).get("generation", 1)
    before = {c.get("type"): c for c in (resource.get("status") or {}).get("conditions") or ()}
    conditions = []
    for type_, (holds, reason, message) in _conditions(seen, verdict).items():
        status = "True" if holds else "False"
        last = before.get(type_, {})
        conditions.append(
            {
                "type": type_,
                "status": status,
                "reason": reason,
                "message": message if len(message) <= _LONGEST else message[: _LONGEST - 3] + "...",
                "observedGeneration": generation,
                "lastTransitionTime": last.get("lastTransitionTime", now) if last.get("status") == status else now,
            }
        )
    image = {"imagePullerImage": seen.image} if seen.image else {}
    return {"observedGeneration": generation, "conditions": conditions, **_counts(verdict), **image}


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What turns one status into another, with null for what is ours and has gone."""
    return {**{name: None for name in _OURS if name in before and name not in after}, **after}


def _verdict(seen: Seen) -> Mapping[str, Any] | None:
    """What the controller published, if that is about these settings and about the DaemonSet as it is."""
    if seen.daemonset is None or seen.settings is None:
        return None
    data = metadata(seen.daemonset)
    verdict, _warning = read_published(seen.daemonset)
    wanted = fingerprint(seen.settings)
    if verdict is None or verdict.get("generation") != data.get("generation"):
        return None
    refused = verdict["verdict"] == "Degraded" and bool(not_followed(seen.daemonset, wanted))
    return verdict if refused or verdict.get("settings") == wanted else None


def _conditions(seen: Seen, verdict: Mapping[str, Any] | None) -> dict[str, tuple[bool, str, str]]:
    """Ready, Progressing and Degraded: whether, one word, and a sentence."""
    if seen.refusal:
        why = (seen.refusal.reason, seen.refusal.message)
        return {"Ready": (False, *why), "Progressing": (False, *why), "Degraded": (True, *why)}
    problems = " ".join(seen.problems)
    hindered, why_hindered = seen.hindered
    if verdict is None:
        message = why_hindered or "the controller has not told of these settings yet"
        reason = hindered or "Reconciling"
        degraded = (True, "InvalidSettings", problems) if problems else (bool(hindered), reason, message)
        return {"Ready": (False, reason, message), "Progressing": (True, reason, message), "Degraded": degraded}
    name, message = str(verdict.get("verdict")), _sentence(verdict, seen)
    ready = (name == "Healthy" and not problems, name, message)
    if problems:
        ready = (False, "InvalidSettings", f"{problems} {message}")
    bad = bool(problems) or name in ("Degraded", "InvalidSettings")
    return {
        "Ready": ready,
        "Progressing": (name in ("Progressing", "Absent"), name, message),
        # Ready is as the controller told last, and nobody may know for how long that holds.
        "Degraded": (True, hindered, why_hindered) if hindered and not bad else (bad, ready[1], ready[2]),
    }


def _sentence(verdict: Mapping[str, Any], seen: Seen) -> str:
    counts = _counts(verdict)
    said = f"{counts['progress']} cached on {counts['nodes']} nodes." if "progress" in counts else ""
    return " ".join(filter(None, (said, *verdict.get("reasons", ()), *seen.notes, seen.hindered[1])))


def _counts(verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    """The counts of a verdict and its worst failures."""
    if verdict is None:
        return {}
    summary = verdict["summary"]
    counts: dict[str, Any] = {name: summary.get(name, 0) for name in ("images", "nodes")}
    states = {name: summary.get(name, 0) for name in ("cached", "pulling", "waiting", "failed")}
    counts |= {"verdict": verdict["verdict"], **states, "progress": f"{states['cached']}/{sum(states.values())}"}
    failures = verdict["failures"][:_FAILURES]
    return {**counts, "failures": failures} if failures else counts
