# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking over from the known implementation, so that no image leaves a node, and what runs as variables of the role.

Its controller deletes its DaemonSet when it is stopped. So the right to do that goes first, then the controller, then
the rest of its rights; its Deployment, ConfigMap and DaemonSet stay where they are, and are adopted by whoever keeps
them next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Change, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import (
    DEPLOYMENT_NAME,
    ROLE_NAME,
    SERVICE_ACCOUNT_NAME,
    Installation,
    config_map_of,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import (
    MANAGER,
    describe,
    is_ours,
    label_selector,
    metadata,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.reconcile import is_known
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CONFIG_MAP_NAME,
    DEFAULTS,
    FIELDS,
    Settings,
    from_config_map,
    to_options,
)

_STATE = f"{MANAGER}.state"
_PATIENCE = 60.0  # Seconds.
_PAUSE = 0.2
_HELM = "meta.helm.sh/release-name"


def find(cluster: Cluster, namespace: str, image: str) -> dict[str, Any] | None:
    """The Deployment in which the known implementation runs, None where there is none.

    RuntimeError where there are several, or where an operator keeps it.

    :param image: that of our controller.
    """
    found = [d for d in _running(cluster, namespace) if not (is_ours(d) and _image_of(d) == image)]
    if not found:
        return None
    names = [describe(deployment) for deployment in found]
    if len(found) > 1:
        raise RuntimeError(
            f"{' and '.join(names)} each run an Image Puller of another kind, and one can be taken over. "
            "Remedy: delete what is not needed"
        )
    (deployment,) = found
    keeper = next((o for o in metadata(deployment).get("ownerReferences") or () if o.get("controller")), None)
    if keeper:
        raise RuntimeError(
            f"{names[0]} is kept by {keeper['kind']} {keeper['name']}, whose operator would put back what is changed. "
            "Remedy: remove that operator first, and keep the objects it made (kubectl delete --cascade=orphan)"
        )
    return deployment


def _running(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Deployments that keep a DaemonSet of the known implementation, or are configured as it is."""
    try:
        daemonsets, _version = cluster.list("DaemonSet", namespace)
        deployments, _version = cluster.list("Deployment", namespace)
    except ApiError as error:
        if error.forbidden:  # Who may not look was never told that there is something to take over.
            return []
        raise
    owners = [owner for d in daemonsets if is_known(d) for owner in metadata(d).get("ownerReferences") or ()]
    keepers = {owner["name"] for owner in owners if owner["kind"] == "Deployment"}
    return [
        d for d in deployments if d["metadata"]["name"] in keepers or (not is_ours(d) and _is_configured(cluster, d))
    ]


def _is_configured(cluster: Cluster, deployment: Mapping[str, Any]) -> bool:
    """Whether it has its name and its settings as an Image Puller has them, with the keys that must be there."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    names = {variable["name"] for container in containers for variable in container.get("env") or ()}
    config_map = config_map_of(deployment)
    if "DEPLOYMENT_NAME" not in names or not config_map:
        return False
    live = cluster.get("ConfigMap", config_map, deployment["metadata"]["namespace"])
    return {"IMAGES", "CACHING_INTERVAL_HOURS"} <= ((live or {}).get("data") or {}).keys()


def _image_of(deployment: Mapping[str, Any]) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def _account_of(deployment: Mapping[str, Any]) -> str:
    return str(deployment["spec"]["template"]["spec"].get("serviceAccountName") or "default")


def require_names(
    deployment: Mapping[str, Any],
    installation: Installation,
    config_map: Mapping[str, Any] | None,
    daemonset_names: Iterable[str],
) -> None:
    """RuntimeError where the installation has other names than what runs, which would be left behind.

    :param config_map: the one that the installation names.
    :param daemonset_names: those of the sets that are to be.
    """
    running = {
        "deployment_name": (deployment["metadata"]["name"], installation.deployment_name),
        "config_map_name": (config_map_of(deployment), installation.config_map_name),
        "service_account_name": (_account_of(deployment), installation.service_account_name),
    }
    wrong = {option: there for option, (there, wanted) in running.items() if there not in (wanted, "default")}
    data = (config_map or {}).get("data") or {}
    if "config_map_name" not in wrong:
        daemonset_name = data.get("DAEMONSET_NAME", "").strip() or DEFAULTS["daemonset_name"]
        wrong |= {} if daemonset_name in daemonset_names else {"daemonset_name": daemonset_name}
    if wrong:
        raise RuntimeError(
            f"{describe(deployment)} runs an Image Puller of another kind, parts of which would stay behind under "
            f"their names. Remedy: install with {', '.join(f'{k}={v}' for k, v in wrong.items())}, as the playbook "
            "migrate prints them"
        )
    namespace = deployment["metadata"]["namespace"]
    elsewhere = data.get("NAMESPACE", "").strip() or namespace
    if elsewhere != namespace:
        raise RuntimeError(
            f"{describe(deployment)} keeps its DaemonSet in namespace {elsewhere}, and an installation keeps it beside "
            f"its ConfigMap. Remedy: remove it as it was installed, and install with namespace={elsewhere}"
        )


def stop(
    cluster: Cluster,
    deployment: dict[str, Any],
    changes: list[Change],
    warnings: list[str],
    *,
    dry_run: bool = False,
    patience: float = _PATIENCE,
) -> None:
    """Stop the known controller so that its DaemonSet stays, and take its rights away.

    RuntimeError before it is stopped if it could still delete the DaemonSet. Whatever ends this in the middle, the
    DaemonSet stays, and the next call goes on.

    :param changes: what is done is added to it as it is done; :param warnings: what is left to say.
    :param patience: seconds that the controller has to end; a sixth of it is for a changed Role to count.
    """
    bindings = _bindings_of(cluster, deployment)
    for _binding, role in bindings:
        changes += _take_delete(cluster, role, dry_run)
    if not dry_run:
        _require_harmless(cluster, deployment, patience / 6)
    name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
    if deployment["spec"].get("replicas", 1) != 0:
        cluster.merge("Deployment", name, namespace, {"spec": {"replicas": 0}}, manager=_STATE, dry_run=dry_run)
        changes.append(Change("patched", "Deployment", describe(deployment), fields=("spec.replicas",)))
    if not dry_run and (left := _wait_until_ended(cluster, deployment, patience)):
        warnings.append(f"{left} has not ended yet; it has no right to delete anything")
    for binding, role in bindings:
        changes += _remove_rights(cluster, deployment, binding, role, dry_run)
    if release := (metadata(deployment).get("annotations") or {}).get(_HELM):
        warnings.append(
            f"{describe(deployment)} was installed by Helm as release {release}. A helm upgrade or uninstall would "
            f"take the Image Puller away. Remedy: let Helm forget the release, with kubectl delete secret "
            f"-n {namespace} -l owner=helm,name={release}"
        )


def _bindings_of(cluster: Cluster, deployment: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The RoleBindings of the controller's account with their Roles, if these are ours or about its work alone."""
    namespace, account = deployment["metadata"]["namespace"], _account_of(deployment)
    found = []
    bindings, _version = cluster.list("RoleBinding", namespace)
    for binding in bindings:
        reference = binding["roleRef"]
        if reference["kind"] == "Role" and any(_is_account(s, account, namespace) for s in _subjects(binding)):
            role = cluster.get("Role", reference["name"], namespace)
            if role and (is_ours(role) or all(_is_of_its_work(rule) for rule in role.get("rules") or ())):
                found.append((binding, role))
    return found


def _subjects(binding: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(binding.get("subjects") or ())


def _is_account(subject: Mapping[str, Any], account: str, namespace: str) -> bool:
    named = (subject["kind"], subject["name"], subject.get("namespace", namespace))
    return named == ("ServiceAccount", account, namespace)


def _is_of_its_work(rule: Mapping[str, Any]) -> bool:
    kinds = {resource.partition("/")[0] for resource in rule.get("resources") or ()}
    return set(rule.get("apiGroups") or ()) <= {"apps"} and bool(kinds) and kinds <= {"daemonsets", "deployments"}


def _take_delete(cluster: Cluster, role: dict[str, Any], dry_run: bool) -> list[Change]:
    """Take the right to delete DaemonSets out of a Role, if it is in it."""
    before = role.get("rules") or ()
    rules = [{**rule, "verbs": _without_delete(rule["verbs"])} if _is_of_its_work(rule) else rule for rule in before]
    if rules == list(before):
        return []
    name, namespace = role["metadata"]["name"], role["metadata"]["namespace"]
    cluster.merge("Role", name, namespace, {"rules": rules}, manager=_STATE, dry_run=dry_run)
    return [Change("patched", "Role", describe(role), {"rules": before}, {"rules": rules}, ("rules",))]


def _without_delete(verbs: Iterable[str]) -> list[str]:
    kept = [verb for verb in verbs if verb not in ("delete", "deletecollection", "*")]
    return kept or ["get"]  # A rule without verbs is refused.


def _require_harmless(cluster: Cluster, deployment: Mapping[str, Any], patience: float) -> None:
    """Wait until the account may not delete DaemonSets any more; RuntimeError where something else lets it."""
    namespace, account = deployment["metadata"]["namespace"], _account_of(deployment)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": namespace},
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "resourceAttributes": {
                "namespace": namespace,
                "verb": "delete",
                "group": "apps",
                "resource": "daemonsets",
            },
        },
    }
    end = time.monotonic() + patience
    while (status := cluster.create(review).get("status") or {}).get("allowed"):
        if time.monotonic() > end:
            why = f" ({status['reason']})" if status.get("reason") else ""
            raise RuntimeError(
                f"{describe(deployment)} deletes its DaemonSet when it is stopped, and its ServiceAccount {account} "
                f"may do so{why}. Remedy: take that right away, and install again"
            )
        time.sleep(_PAUSE)


def _wait_until_ended(cluster: Cluster, deployment: Mapping[str, Any], patience: float) -> str:
    """Wait until the Deployment has no pod; the pod that is left after a while, else empty."""
    labels = label_selector(deployment)
    end = time.monotonic() + patience
    while True:
        pods, _version = cluster.list("Pod", deployment["metadata"]["namespace"], labels=labels)
        its = [p for p in pods if any(o["kind"] == "ReplicaSet" for o in metadata(p).get("ownerReferences") or ())]
        if not its or time.monotonic() > end:
            return describe(its[0]) if its else ""
        time.sleep(_PAUSE)


def _remove_rights(
    cluster: Cluster, deployment: Mapping[str, Any], binding: dict[str, Any], role: dict[str, Any], dry_run: bool
) -> list[Change]:
    """Take the account out of a binding; the binding goes with its last subject, the Role with its last binding."""
    namespace, account = deployment["metadata"]["namespace"], _account_of(deployment)
    if is_ours(role) or binding["metadata"]["name"] == ROLE_NAME == role["metadata"]["name"]:
        return []  # They are ours in a moment, with our rules.
    others = [subject for subject in _subjects(binding) if not _is_account(subject, account, namespace)]
    if others:
        name = binding["metadata"]["name"]
        cluster.merge("RoleBinding", name, namespace, {"subjects": others}, manager=_STATE, dry_run=dry_run)
        return [Change("patched", "RoleBinding", describe(binding), fields=("subjects",))]
    changes = [_delete(cluster, binding, dry_run)]
    bindings, _version = cluster.list("RoleBinding", namespace)
    gone = binding["metadata"]["uid"]
    users = [b for b in bindings if b["roleRef"] == binding["roleRef"] and b["metadata"]["uid"] != gone]
    if not users and role["metadata"]["name"] != ROLE_NAME:
        changes.append(_delete(cluster, role, dry_run))
    return changes


def _delete(cluster: Cluster, live: dict[str, Any], dry_run: bool) -> Change:
    data = live["metadata"]
    cluster.delete(live["kind"], data["name"], data["namespace"], uid=data["uid"], dry_run=dry_run)
    return Change("deleted", live["kind"], describe(live), live)


# --- as variables of the role ----------------------------------------------------------------------------------------


def variables_of(cluster: Cluster, namespace: str, deployment_name: str) -> tuple[dict[str, Any], list[str]]:
    """The role's variables for what runs in a namespace, and what they can't say; changes nothing.

    RuntimeError where nothing runs there, or several things.

    :param deployment_name: which of several.
    """
    deployments, _version = cluster.list("Deployment", namespace)
    found = [d for d in deployments if _is_configured(cluster, d)]
    found = [d for d in found if d["metadata"]["name"] == deployment_name or len(found) == 1] or found
    if not found:
        raise RuntimeError(
            f"No Deployment in namespace {namespace} runs an Image Puller: none has DEPLOYMENT_NAME and takes its "
            "settings from a ConfigMap. Remedy: name another namespace"
        )
    if len(found) > 1:
        names = ", ".join(deployment["metadata"]["name"] for deployment in found)
        raise RuntimeError(f"{names} in namespace {namespace} each run an Image Puller. Remedy: name a deployment_name")
    (deployment,) = found
    name = config_map_of(deployment)
    data = (cluster.get("ConfigMap", name, namespace) or {}).get("data") or {}
    reading = from_config_map(data)
    unknown = ", ".join(sorted(data.keys() - {field.key for field in FIELDS}))
    notes = [str(problem) for problem in reading.problems]
    notes += [f"keys of ConfigMap {namespace}/{name} that mean nothing here: {unknown}"] if unknown else []
    other_names = {
        "deployment_name": (deployment["metadata"]["name"], DEPLOYMENT_NAME),
        "config_map_name": (name, CONFIG_MAP_NAME),
        "service_account_name": (_account_of(deployment), SERVICE_ACCOUNT_NAME),
    }
    variables: dict[str, Any] = {"namespace": namespace}
    variables |= {option: value for option, (value, default) in other_names.items() if value != default}
    variables |= _options_of(reading.settings) if reading.settings else {}
    return {f"image_puller_{option}": value for option, value in variables.items()}, notes


def _options_of(settings: Settings) -> dict[str, Any]:
    """The images, and what is not as by default."""
    options = to_options(settings)
    other = {o: value for o, value in options.items() if o in DEFAULTS and getattr(settings, o) != DEFAULTS[o]}
    images = {image.name: image.image for image in settings.images}
    return {"images": images, **{o: value for o, value in other.items() if o not in ("images", "namespace")}}
