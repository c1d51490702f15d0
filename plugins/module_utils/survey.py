# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look before anything is changed: what preflight.py judges is read here, from the cluster and from registries.

Nothing is written. What may not be read is unknown, and said once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from ansible_collections.kubecache.image_puller.plugins.module_utils import credentials
from ansible_collections.kubecache.image_puller.plugins.module_utils.access import read_access
from ansible_collections.kubecache.image_puller.plugins.module_utils.capacity import Cost, cost_of
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import RESOURCES, ApiError, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring
from ansible_collections.kubecache.image_puller.plugins.module_utils.daemonset import build_daemonsets
from ansible_collections.kubecache.image_puller.plugins.module_utils.imageset import is_openshift
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import CACHE_SERVICE_ACCOUNT_NAME
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import Lock
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import some
from ansible_collections.kubecache.image_puller.plugins.module_utils.policy import EVERYTHING, Policy
from ansible_collections.kubecache.image_puller.plugins.module_utils.preflight import (
    Admission,
    PullSecret,
    Survey,
    missing_classes,
    plan,
    platform_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import (
    Access,
    Facts,
    Layer,
    Registries,
    RegistryError,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.scheduling import selects
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import Problem, Settings
from ansible_collections.kubecache.image_puller.plugins.module_utils.slim import PAGE, Shared, node_slimmer

PODS_SECONDS = 20.0  # For reading what all pods ask for; on a very large cluster it takes too long to be worth it.
# For asking kubelets for their free space: all of them, each, and how many at a time.
DISK_SECONDS, DISK_ANSWER_SECONDS, DISK_PARALLEL = 3.0, 1.5, 8
_ASKED = ("linux/amd64", "linux/arm64")  # Where nobody knows the nodes.

Read = TypeVar("Read")
_Pods = tuple[dict[str, Cost], list[Mapping[str, Any]]]

REGISTRY_ARGUMENTS: dict[str, Any] = {
    "registry_auth_file": {"type": "path"},
    "registry_mirrors": {"type": "dict"},
    "registry_insecure": {"type": "list", "elements": "str"},
    "registry_ca_file": {"type": "path"},
}


def preflight(
    cluster: Cluster,
    sets: Sequence[Settings],
    options: Mapping[str, Any],
    *,
    objects: Sequence[Mapping[str, Any]] = (),
    made: Collection[str] = (),
    lock: Lock | None = None,
    problems: Sequence[Problem] = (),
    policy: Policy = EVERYTHING,
) -> dict[str, Any]:
    """The plan (see preflight.py) of these sets of one namespace; nothing is written.

    :param options: those of REGISTRY_ARGUMENTS.
    :param objects: what the installation has in the namespace besides the DaemonSets of the sets; of its Deployments
        the controller's comes first.
    :param made: PriorityClasses that the installation makes.
    :param lock: the lock from which it is to be; :param problems: where that does not fit the list.
    :param policy: what will be waited for.
    """
    access = read_access(options)
    deployments = [obj for obj in objects if obj["kind"] == "Deployment"]
    pods = [deployment["spec"]["template"]["spec"] for deployment in deployments]
    images: dict[str, str] = {}
    for use, pod in zip(("controller", "operator"), pods, strict=False):
        image = str(pod["containers"][0]["image"])
        images |= {} if image in images.values() else {use: image}
    found = look(cluster, sets, access, images=images.values(), objects=objects)
    found = replace(found, classes=read_classes(cluster, sets, deployments[0] if deployments else None, made))
    return plan(sets, found, others=pods, images=images, lock=lock, problems=problems, policy=policy)


def read_classes(
    cluster: Cluster, sets: Iterable[Settings], deployment: Mapping[str, Any] | None, made: Collection[str] = ()
) -> dict[tuple[str, str], dict[str, Any] | None]:
    """(kind, name) -> the classes that the pods name, None for one that is not there; without what may not be read.

    :param made: PriorityClasses that the installation makes.
    """
    sets = list(sets)
    pod = deployment["spec"]["template"]["spec"] if deployment else {}
    names = [("PriorityClass", name) for name in (*(s.priority_class_name for s in sets), pod.get("priorityClassName"))]
    names += [("RuntimeClass", one.runtime_class_name) for one in sets]
    found: dict[tuple[str, str], dict[str, Any] | None] = {}
    for kind, name in dict.fromkeys(names):
        if not name or name in made:
            continue
        try:
            found[kind, name] = cluster.get(kind, name)
        except ApiError as error:
            if not error.forbidden:
                raise
    return found


def require_classes(
    cluster: Cluster, sets: Iterable[Settings], deployment: Mapping[str, Any] | None, made: Collection[str] = ()
) -> None:
    """RuntimeError, before anything is changed, where a class that the pods name is known not to be there."""
    if missing := missing_classes(read_classes(cluster, sets, deployment, made)):
        raise RuntimeError(f"Nothing was changed: {'; '.join(missing)}")


def warnings_of(found: Mapping[str, Any]) -> list[str]:
    """What of a plan somebody should read before the installation."""
    return [finding["message"] for finding in found["findings"] if finding["level"] != "note"]


def refusal(found: Mapping[str, Any]) -> str:
    """Why an installation is not begun."""
    errors = [finding["message"] for finding in found["findings"] if finding["level"] == "error"]
    return "The installation would not work; nothing was changed.\n" + "\n".join(f"- {error}." for error in errors)


def look(
    cluster: Cluster,
    sets: Sequence[Settings],
    access: Access,
    *,
    images: Iterable[str] = (),
    objects: Sequence[Mapping[str, Any]] = (),
) -> Survey:
    """Read everything that tells whether these sets of one namespace will work.

    :param images: further images to ask registries for.
    :param objects: as of :func:`preflight`; the pods of Deployments that are there are counted as pods that are.
    """
    reader, openshift = _Reader(cluster, sets[0].namespace), is_openshift(cluster)
    made = [(one, d["spec"]["template"]["spec"]) for one in sets for d in build_daemonsets(one, openshift=openshift)]
    specs = [spec for _one, spec in made]
    namespace = reader.namespace_object()
    nodes = reader.nodes()
    chosen = None if nodes is None else [node for node in nodes if any(selects(spec, node) for spec in specs)]
    daemonsets = {settings.daemonset_name for settings in sets}
    quotas = reader.listed("ResourceQuota") or []
    deployments = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Deployment"}
    taken, own = reader.pods(daemonsets, deployments, own=bool(quotas))
    wanted_objects = [("DaemonSet", name) for name in daemonsets]
    wanted_objects += [(obj["kind"], obj["metadata"]["name"]) for obj in objects]
    secrets, registries = _registries(reader, sets, access, namespace)
    wanted = [image.image for one in sets for image in one.images] + [one.helper_image for one in sets] + list(images)
    platforms = {platform_of(node) for node in chosen or ()} or _ASKED
    return Survey(
        namespace=namespace,
        nodes=nodes,
        taken=taken,
        own_pods=own,
        quotas=quotas,
        objects=reader.objects(quotas, wanted_objects),
        limit_ranges=reader.listed("LimitRange") or (),
        pull_secrets=secrets,
        disk=reader.disk(chosen or ()),
        answers=registries.facts_of_all(wanted, platforms),
        admissions=[reader.admission(spec, one, namespace) for one, spec in made] if openshift else None,
        unread=tuple(reader.unread),
    )


def ask_registries(
    cluster: Cluster,
    sets: Sequence[Settings],
    options: Mapping[str, Any],
    images: Iterable[str],
    *,
    sizes: bool = False,
) -> dict[str, Facts | RegistryError]:
    """What registries say of images, asked as for the plan: with the pull secrets of the sets, and as options say.

    :param options: those of REGISTRY_ARGUMENTS.
    :param sizes: ask for the layers on the nodes' platforms, too.
    """
    access = read_access(options)
    if not sets:
        return {}
    reader = _Reader(cluster, sets[0].namespace)
    platforms: Collection[str] = ()
    if sizes:
        platforms = {platform_of(node) for node in reader.nodes() or ()} or _ASKED
    return _registries(reader, sets, access, {})[1].facts_of_all(images, platforms)


@dataclass(frozen=True)
class Sizes:
    """What registries say of images, for nodes of these platforms (none where nodes may not be read)."""

    answers: Mapping[str, Facts | RegistryError]
    platforms: Mapping[str, str]

    def of(self, image: str, node: str) -> int | None:
        """Bytes of the compressed layers; of the largest image for any platform where the node's is unknown."""
        answer = self.answers.get(image)
        if not isinstance(answer, Facts):
            return None
        platform = self.platforms.get(node)
        asked = [answer.layers_for(platform)] if platform else list(answer.layers.values())
        return max((_bytes(layers) for layers in asked if layers is not None), default=None)

    def unknown(self) -> list[str]:
        """Why sizes stay unknown, a sentence for each reason."""
        images: dict[str, list[str]] = {}
        for image, answer in self.answers.items():
            if isinstance(answer, RegistryError):
                images.setdefault(str(answer), []).append(image)
        return [f"the size of {some(names)} is unknown: {why}" for why, names in images.items()]


def _bytes(layers: Iterable[Layer]) -> int:
    return sum({layer.digest: layer.size for layer in layers}.values())


def ask_sizes(
    cluster: Cluster, sets: Sequence[Settings], options: Mapping[str, Any], images: Iterable[str], *, read_nodes: bool
) -> Sizes:
    """How large images are by what their registries say; ``options`` and logins as of :func:`ask_registries`."""
    access = read_access(options)
    reader = _Reader(cluster, sets[0].namespace)
    nodes = (reader.nodes() or ()) if read_nodes else ()
    platforms = {node["metadata"]["name"]: platform_of(node) for node in nodes}
    registries = _registries(reader, sets, access, {})[1]
    return Sizes(registries.facts_of_all(images, set(platforms.values()) or _ASKED), platforms)


def _registries(
    reader: _Reader, sets: Sequence[Settings], access: Access, namespace: Mapping[str, Any] | None
) -> tuple[list[PullSecret], Registries]:
    secrets = reader.pull_secrets([name for settings in sets for name in settings.image_pull_secrets], namespace)
    logins = sum((secret.keyring for secret in secrets), Keyring()) + access.keyring
    return secrets, Registries(Access(logins, access.mirrors, access.insecure, access.plain, access.authorities))


def _counted(kind: str) -> list[str]:
    """As what a quota counts an object of this kind, and what Kubernetes makes of each."""
    resource = RESOURCES[kind]
    # As long as nothing changes: a Deployment has one ReplicaSet, a DaemonSet one revision.
    made = {"Deployment": ["replicasets.apps"], "DaemonSet": ["controllerrevisions.apps"]}.get(kind, [])
    name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    return [f"count/{each}" for each in (name, *made)] + ([] if resource.group else [name])


class _Reader:
    """Reads what may be read of one namespace and its cluster; the rest is a sentence in ``unread``."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.unread: list[str] = []
        self.disk_is_forbidden = False

    def _try(self, read: Callable[[], Read], consequence: str) -> Read | None:
        try:
            return read()
        except ApiError as error:
            if not error.forbidden:
                raise
            self.unread.append(f"{consequence} is unknown: {error}")
            return None

    def namespace_object(self) -> Mapping[str, Any] | None:
        """The namespace; {} where it may not be read, None where it is not there."""
        missing: Mapping[str, Any] = {"metadata": {}}
        found = self._try(
            lambda: self.cluster.get("Namespace", self.namespace) or missing, "the Pod Security level of the namespace"
        )
        if found is missing:
            self.unread.append(
                f"the namespace {self.namespace} is not there yet, and neither are its quotas, limits and pull secrets"
            )
            return None
        return found or {}

    def nodes(self) -> list[dict[str, Any]] | None:
        """All nodes, with what the plan looks at."""
        slim = node_slimmer(Shared(), room=True)

        def read() -> list[dict[str, Any]]:
            return [slim(node) for nodes, _version in self.cluster.pages("Node", limit=PAGE) for node in nodes]

        return self._try(read, "on how many nodes, and whether there is room,")

    def listed(self, kind: str) -> list[dict[str, Any]] | None:
        """All objects of a kind in the namespace."""
        return self._try(lambda: self.cluster.list(kind, self.namespace)[0], f"what a {kind} allows")

    def objects(
        self, quotas: Iterable[Mapping[str, Any]], wanted: Iterable[tuple[str, str]]
    ) -> dict[str, tuple[int, int]]:
        """Of each resource that quotas count objects of: how many of the (kind, name) there are to be, and are."""
        limited = {resource for quota in quotas for resource in (quota.get("spec") or {}).get("hard") or ()}
        found: dict[str, tuple[int, int]] = {}
        for kind, name in dict.fromkeys(wanted):
            for resource in limited.intersection(_counted(kind)):
                is_there = self._try(partial(self._is_there, kind, name), f"whether {kind} {name} is there")
                needed, held = found.get(resource, (0, 0))
                found[resource] = (
                    needed + 1,
                    held + (is_there is not False),
                )  # What nobody knows stands against nothing.
        return found

    def _is_there(self, kind: str, name: str) -> bool:
        return self.cluster.get(kind, name, self.namespace) is not None

    def pods(
        self, daemonsets: set[str], deployments: set[str], *, own: bool
    ) -> tuple[Mapping[str, Cost] | None, Sequence[Mapping[str, Any]] | None]:
        """Node -> what the pods of others ask for there, and the specs of the installation's own pods; None: unknown.

        :param own: whether to look for the own pods alone where all can't be read.
        """

        def read(namespace: str | None, which: str, what: str) -> _Pods | None:
            taken: dict[str, Cost] = {}
            mine: list[Mapping[str, Any]] = []
            end = time.monotonic() + PODS_SECONDS
            fields = "status.phase!=Succeeded,status.phase!=Failed"
            for pods, _version in self.cluster.pages("Pod", namespace, fields=fields):
                for pod in pods:
                    if self._is_own(pod, daemonsets, deployments):
                        mine.append(pod["spec"])
                    elif node := pod["spec"].get("nodeName"):
                        taken[node] = taken.get(node, Cost()) + cost_of([pod["spec"]])
                if time.monotonic() > end:
                    self.unread.append(f"{what} is unknown: reading {which} takes more than {PODS_SECONDS:.0f} s")
                    return None
            return taken, mine

        what = "what the nodes have free"
        if found := self._try(lambda: read(None, "all pods", what), what):
            return found
        if not own:
            return None, None
        left = "whether the ResourceQuotas leave enough for the pods"
        found = self._try(lambda: read(self.namespace, "the pods of the namespace", left), left)
        return None, found[1] if found else None

    def _is_own(self, pod: Mapping[str, Any], daemonsets: set[str], deployments: set[str]) -> bool:
        if pod["metadata"]["namespace"] != self.namespace:
            return False
        owners = {(owner["kind"], owner["name"]) for owner in pod["metadata"].get("ownerReferences") or ()}
        # A ReplicaSet has the name of its Deployment and a hash.
        sets = {name.rpartition("-")[0] for kind, name in owners if kind == "ReplicaSet"}
        return any(("DaemonSet", name) in owners for name in daemonsets) or not deployments.isdisjoint(sets)

    def pull_secrets(self, names: Iterable[str], namespace: Mapping[str, Any] | None) -> list[PullSecret]:
        """The pull secrets of the settings."""
        found = []
        absent: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            if namespace is None:
                found.append(PullSecret(name, "unknown"))
                continue
            consequence = f"whether the pull secret {name} is right"
            secret = self._try(partial(self._secret, name, absent), consequence)
            if secret is absent:
                found.append(PullSecret(name, "missing"))
            elif secret is None:
                found.append(PullSecret(name, "unknown"))
            else:
                found.append(PullSecret(name, "found", credentials.from_secret(secret)))
        return found

    def _secret(self, name: str, absent: dict[str, Any]) -> dict[str, Any]:
        return self.cluster.get("Secret", name, self.namespace) or absent

    def disk(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
        """Node -> (free, all) bytes of its image file system, of as many nodes as answer in time."""
        end = time.monotonic() + DISK_SECONDS
        names = [node["metadata"]["name"] for node in nodes]
        with ThreadPoolExecutor(DISK_PARALLEL) as pool:
            answers = dict(zip(names, pool.map(lambda name: self._disk_of(name, end), names), strict=True))
        found = {name: answer for name, answer in answers.items() if answer}
        if missing := len(names) - len(found):
            who = "the nodes'" if missing == len(names) else f"{missing} of {len(names)} nodes'"
            self.unread.append(f"{who} free image space was not measured; what they have for pods stands for it")
        return found

    def _disk_of(self, name: str, end: float) -> tuple[int, int] | None:
        left = min(DISK_ANSWER_SECONDS, end - time.monotonic())
        if left <= 0 or self.disk_is_forbidden:
            return None
        try:
            summary = self.cluster.raw(f"/api/v1/nodes/{name}/proxy/stats/summary", seconds=left)
            image_fs = summary["node"]["runtime"]["imageFs"]
            return int(image_fs["availableBytes"]), int(image_fs["capacityBytes"])
        except ApiError as error:
            self.disk_is_forbidden |= error.forbidden
        except (KeyError, TypeError, ValueError):
            pass  # The kubelet does not know it either.
        return None

    def admission(self, spec: Mapping[str, Any], settings: Settings, namespace: Mapping[str, Any] | None) -> Admission:
        """What OpenShift's admission says to a set's pods, asked as their ServiceAccount."""
        name = settings.daemonset_name
        if namespace is None:
            return Admission(name, reason="the namespace is not there yet")
        account = settings.cache_service_account_name or CACHE_SERVICE_ACCOUNT_NAME
        question = {
            "apiVersion": "security.openshift.io/v1",
            "kind": "PodSecurityPolicyReview",
            "metadata": {"generateName": "image-puller-", "namespace": self.namespace},
            "spec": {"template": {"metadata": {}, "spec": spec}, "serviceAccountNames": [account]},
        }
        try:
            answer = self.cluster.create(question, dry_run=True)  # Nobody keeps a review.
        except ApiError as error:
            return Admission(name, reason=str(error))
        allowed = (answer.get("status") or {}).get("allowedServiceAccounts") or ()
        named = next((item.get("allowedBy") for item in allowed if item.get("name") == account), None) or {}
        if named.get("name"):
            return Admission(name, scc=str(named["name"]))
        reason = next((item.get("reason") for item in allowed if item.get("reason")), "none fits them")
        return Admission(name, refused=True, reason=str(reason))
