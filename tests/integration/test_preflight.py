# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan is what the API server accounts, the registry has and the nodes do; and looking changes nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.quantity import parse_quantity
from tests.cluster import Cluster
from tests.running import WRITES

from .conftest import DAEMONSET, Install, Kubectl, Module, Playbook, eventually
from .olm import StandIn

PUBLIC = "registry.example.com/preflight/public:1"
PRIVATE = "registry.example.com/preflight-private/java11:1"
IMAGES = {"java11": PUBLIC}
USER, PASSWORD = "reader", "correct-horse-battery-staple"
# What the kubelet and the API server have in every namespace counts, too.
OBJECTS = {
    "configmaps": "9",
    "count/configmaps": "9",
    "count/controllerrevisions.apps": "9",
    "count/daemonsets.apps": "9",
    "count/deployments.apps": "9",
    "count/pods": "100",
    "count/replicasets.apps": "9",
    "count/rolebindings.rbac.authorization.k8s.io": "9",
    "count/roles.rbac.authorization.k8s.io": "9",
    "count/serviceaccounts": "9",
}
# Which an operator makes, and nobody else. A quota on its resource refuses all until it has learned of the definition.
OPERATED = {"count/leases.coordination.k8s.io": "9"}
BIG = {
    "pods": "100",
    "requests.cpu": "50",
    "limits.cpu": "50",
    "requests.memory": "50Gi",
    "limits.memory": "50Gi",
}


@pytest.fixture
def access(cluster: Cluster) -> dict[str, Any]:
    """How the cluster's registry is asked for the images of the registries whose place it takes."""
    mirrors = dict.fromkeys(("registry.example.com", "ghcr.io"), cluster.registry)
    return {"registry_mirrors": mirrors, "registry_insecure": [f"http://{cluster.registry}"]}


@pytest.fixture
def quota(cluster: Cluster, namespace: str) -> Callable[..., None]:
    """Make the namespace, with a quota."""

    def make(**hard: str) -> None:
        cluster.kubectl("create", "namespace", namespace)
        body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
        cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(body))
        told = ["get", "resourcequota", "small", "-n", namespace, "-o", "jsonpath={.status.hard}"]
        eventually(lambda: cluster.kubectl(*told))

    return make


@pytest.fixture(name="private")
def _private(cluster: Cluster) -> Iterator[None]:
    """A registry that gives some images to the reader alone."""
    cluster.push(PRIVATE)
    cluster.registry_fault("preflight-private/", "auth", user=USER, password=PASSWORD)
    yield
    cluster.registry_clear()


def make_secret(cluster: Cluster, namespace: str) -> None:
    """The pull secret `team` for the registry of the private image."""
    server = ["--docker-server=registry.example.com", f"--docker-username={USER}", f"--docker-password={PASSWORD}"]
    cluster.kubectl("create", "secret", "docker-registry", "team", "-n", namespace, *server)


def written(cluster: Cluster, mark: Any) -> list[str]:
    """What the administrator wrote since the mark, dry runs not counted."""
    events = [event for event in cluster.audit(mark) if "admin" in event["user"] and event["verb"] in WRITES]
    return [event["uri"] for event in events if "dryRun=All" not in event["uri"]]


def levels(plan: dict[str, Any], about: str) -> dict[str, str]:
    """Message -> level of what a plan finds about something."""
    return {finding["message"]: finding["level"] for finding in plan["findings"] if finding["about"] == about}


def limits(cluster: Cluster, namespace: str, *items: dict[str, Any]) -> None:
    """A LimitRange of the namespace."""
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "bounds"}, "spec": {"limits": items}}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(body))


@pytest.fixture(name="olm")
def _olm(cluster: Cluster) -> Iterator[None]:
    """A stand-in for the Operator Lifecycle Manager."""
    with StandIn(cluster):
        yield


@pytest.mark.usefixtures("olm")
@pytest.mark.parametrize(
    "method",
    [
        "manifests",
        *(pytest.param(each, marks=pytest.mark.thorough) for each in ("openshift_template", "operator", "olm")),
    ],
)
def test_the_numbers_of_the_plan_are_those_that_the_api_server_accounts(
    quota: Callable[..., None],
    module: Module,
    install: Install,
    kubectl: Kubectl,
    access: Any,
    method: str,
) -> None:
    """Pods, what they ask for, what a LimitRange gives them, and objects, those that an operator makes included."""
    cluster = kubectl.cluster
    cluster.push(PUBLIC)
    storage = {"requests.ephemeral-storage": "50Gi", "limits.ephemeral-storage": "50Gi"}
    hard = {**BIG, **storage, **OBJECTS, **(OPERATED if method in ("operator", "olm") else {})}
    if method == "olm":  # The names of the roles that it makes are its own.
        hard = {name: value for name, value in hard.items() if "rbac.authorization.k8s.io" not in name}
    quota(**hard)
    given = {"ephemeral-storage": "30Mi"}
    limits(cluster, kubectl.namespace, {"type": "Container", "max": {"ephemeral-storage": "1Gi"}, "default": given})
    images = {f"image-{number}": PUBLIC for number in range(3)}
    options = {"caching_cpu_limit": ".15", "caching_memory_request": "11Mi", "install_method": method, **access}
    plan = module("install", images=images, preflight="report", check=True, **options)["plan"]
    assert {row["resource"] for row in plan["quotas"]} == hard.keys()
    installed, _kept = install(images, **options)
    module("install", images=images, daemonset=True, wait=True, **options)

    def accounted() -> dict[str, Any]:
        found: dict[str, Any] = kubectl.list("resourcequota")[0]["status"]["used"]
        return {name: parse_quantity(str(amount)) for name, amount in found.items()}

    expected = {row["resource"]: parse_quantity(row["used"]) + parse_quantity(row["needed"]) for row in plan["quotas"]}
    eventually(lambda: accounted() == expected or pytest.fail(f"{accounted()} is not {expected}"), 30)
    pods = kubectl.list("pod", "-l", "app.kubernetes.io/component=cache")
    assert len(pods) == plan["cost"]["total"]["pods"] == plan["nodes"]["matching"] == 2
    again = module("install", images=images, preflight="report", check=True, **options)["plan"]
    assert again["quotas"] == plan["quotas"], "what is there already counts twice"
    assert installed["objects"]


def test_what_a_quota_counts_or_a_limit_range_refuses_is_what_the_api_server_says(
    cluster: Cluster, quota: Callable[..., None], module: Module, kubectl: Kubectl, access: Any
) -> None:
    cluster.push(PUBLIC)
    quota(**{"count/daemonsets.apps": "0", "requests.ephemeral-storage": "0"})

    def planned() -> dict[str, Any]:
        options = {"images": IMAGES, "preflight": "report", "check": True, "controller": False, **access}
        found: dict[str, Any] = module("install", **options)["plan"]
        return found

    assert levels(planned(), "quota") == {
        "ResourceQuota small is too small in count/daemonsets.apps: 1 needed, 0 of 0 left, 1 missing. "
        "Remedy: raise its hard count/daemonsets.apps to 1": "error"
    }
    module("install", images=IMAGES, controller=False)
    refused = module("daemonset", ok=False)["msg"]
    assert "exceeded quota: small, requested: count/daemonsets.apps=1, used: count/daemonsets.apps=0" in refused
    limits(cluster, kubectl.namespace, {"type": "Pod", "max": {"ephemeral-storage": "1Gi"}})
    cluster.kubectl("delete", "resourcequota", "small", "-n", kubectl.namespace)
    quota_of_storage = {"metadata": {"name": "storage"}, "spec": {"hard": {"requests.ephemeral-storage": "0"}}}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", **quota_of_storage}
    cluster.kubectl("apply", "-n", kubectl.namespace, "-f", "-", input=json.dumps(body))
    plan = planned()
    assert levels(plan, "quota") == {}, "a quota on what no pod asks for refuses none"
    assert list(levels(plan, "limit_range").items()) == [
        (
            "LimitRange bounds refuses the pods: the pod may have 1Gi ephemeral-storage at most, and says nothing of "
            "it. Remedy: give containers a default for ephemeral-storage in a LimitRange of type Container, or lift "
            "this bound",
            "error",
        )
    ]
    module("daemonset")
    said = "maximum ephemeral-storage usage per Pod is 1Gi.  No limit is specified"
    eventually(lambda: said in json.dumps(kubectl.list("event")), 30)
    assert kubectl.list("pod") == []
    cluster.kubectl("delete", "limitrange", "bounds", "-n", kubectl.namespace)
    eventually(lambda: len(kubectl.list("pod")) == 2, 60)


@pytest.mark.parametrize("there", [False, True], ids=["without-a-namespace", "with-a-namespace"])
def test_a_set_whose_strategy_is_chosen_is_planned_and_costed_as_it_will_be(
    cluster: Cluster, namespace: str, module: Module, access: Any, there: bool
) -> None:
    cluster.push(PUBLIC)
    if there:
        cluster.kubectl("create", "namespace", namespace)
        eventually(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", namespace, "--ignore-not-found"))
    options = {"images": IMAGES, "strategy": "auto", "check": True, **access}

    def planned() -> dict[str, Any]:
        """Alike; asked again, if a node's list of images, which decides the disk, changed in between."""
        configured = module("config", preflight=True, **options)
        installed = module("install", preflight="report", **options)
        assert configured["cost"] == installed["cost"]
        assert configured["plan"]["cost"]["node"] == installed["plan"]["cost"]["node"]
        return configured

    configured = eventually(planned)
    assert configured["cost"]["memory_requests"] == "32Mi", "by what image volumes make of it"
    assert configured["notes"] == [
        "strategy auto takes image_volume: every matching node can, and admission lets it in"
    ]


def test_more_nodes_than_there_are_is_said_before_the_wait_and_when_it_is_over(
    cluster: Cluster, module: Module, access: Any
) -> None:
    cluster.push(PUBLIC)
    options = {"controller": False, "preflight": "warn", "wait_for": {"nodes": 10}, **access}
    warned = json.dumps(module("install", images=IMAGES, **options)["warnings"])
    assert "kubernetes-image-puller: wait_for asks for 10 nodes, and there are 2. Remedy: ask for fewer" in warned
    late = module("daemonset", wait=True, wait_timeout=5, wait_for={"nodes": 10}, ok=False)["msg"]
    assert late.startswith(
        "Not cached after 5 s: wait_for asks for 10 nodes, and there are 2. Remedy: ask for fewer, or wait until more "
        "nodes have joined."
    )


def test_a_quota_that_is_too_small_ends_an_enforced_installation_before_anything_is_written(
    cluster: Cluster, quota: Callable[..., None], playbook: Playbook, namespace: str, access: Any
) -> None:
    cluster.push(PUBLIC)
    quota(**{**BIG, "requests.memory": "75Mi"})
    mark = cluster.audit_mark()
    # Two pods with 10Mi each, and the controller's with 64Mi.
    sentence = (
        "ResourceQuota small is too small in requests.memory: 84Mi needed, 75Mi of 75Mi left, 9Mi missing. "
        "Remedy: raise its hard requests.memory to 84Mi, or lower caching_memory_request to 5Mi"
    )
    planned = playbook("plan", images=IMAGES, **access)
    assert planned.changed == 0
    assert "Blocked: " in planned.stdout
    assert sentence in " ".join(planned.stdout.split())
    refused = playbook("install", ok=False, images=IMAGES, preflight="enforce", **access)
    assert "The installation would not work; nothing was changed." in refused.stdout
    assert sentence in refused.stdout
    assert written(cluster, mark) == []
    assert cluster.kubectl("get", "configmap", "k8s-image-puller", "-n", namespace, "--ignore-not-found") == ""


def test_a_limit_range_that_refuses_the_pods_is_told_with_the_option_to_change(
    cluster: Cluster, namespace: str, module: Module, access: Any
) -> None:
    cluster.push(PUBLIC)
    cluster.kubectl("create", "namespace", namespace)
    limits(cluster, namespace, {"type": "Container", "min": {"memory": "32Mi"}, "max": {"cpu": "100m"}})
    plan = module("config", images=IMAGES, preflight=True, check=True, **access)["plan"]
    assert plan["verdict"] == "Blocked"
    assert levels(plan, "limit_range") == {
        "LimitRange bounds refuses the pods: each container must ask for 32Mi memory or more, and asks for 10Mi. "
        "Remedy: raise caching_memory_request": "error",
        "LimitRange bounds refuses the pods: each container may have 100m cpu at most, and its limit is 200m. "
        "Remedy: lower caching_cpu_limit": "error",
    }


def test_the_plan_on_an_empty_cluster_asks_the_registry_and_leaves_no_trace(
    cluster: Cluster, namespace: str, playbook: Playbook, access: Any
) -> None:
    digest = cluster.push(PUBLIC, size_mb=5)
    mark = cluster.audit_mark()
    absent = "registry.example.com/preflight/gone:1"
    far = "nowhere.example.net/team/far:latest"
    told = playbook("plan", images={**IMAGES, "gone": absent, "far": far}, **access).stdout
    assert digest
    assert "java11" in told
    text = " ".join(told.split())
    assert f"error: gone ({absent}): {cluster.registry} has no image preflight/gone:1." not in text  # Of a mirror only.
    assert f"note: far ({far}): the host name nowhere.example.net can't be resolved here" in text
    assert "note: far: what the tag latest (or none) stands for changes" in text
    assert "Check mode: nothing was changed" in text
    plan = told[told.index("IMAGE ") :]
    assert max(map(len, plan.splitlines()[:25])) <= 80
    assert cluster.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""
    assert written(cluster, mark) == []


@pytest.mark.usefixtures("private")
def test_a_private_image_is_pulled_with_the_secret_and_its_consumers_need_it_too(
    cluster: Cluster, namespace: str, module: Module, install: Install, kubectl: Kubectl, access: Any
) -> None:
    images = {"java11": PRIVATE}
    cluster.kubectl("create", "namespace", namespace)
    without = module("config", images=images, preflight=True, check=True, **access)["plan"]
    assert without["images"][0]["state"] != "found"
    make_secret(cluster, namespace)
    options: dict[str, Any] = {"image_pull_secrets": "team", **access}
    plan = module("config", images=images, preflight=True, check=True, **options)["plan"]
    assert plan["images"][0] | {"digest": "", "size": 0, "platforms": []} == {
        "name": "java11",
        "image": PRIVATE,
        "use": "cache",
        "state": "found",
        "class": None,
        "message": None,
        "digest": "",
        "platforms": [],
        "size": 0,
        "login": "pull secret team",
        "private": True,
        "moving": False,
    }
    (advice,) = levels(plan, "consumers")
    assert "java11 is private: since Kubernetes 1.35 a kubelet lets a pod use a private image" in advice
    assert PASSWORD not in json.dumps(plan)
    _installed, kept = install(images, controller=False, **options)
    assert kept["verdict"] == "Healthy", kept
    for policy, reason in (("IfNotPresent", "ErrImagePull"), ("Never", "ErrImageNeverPull")):
        assert_refused(cluster, kubectl, policy, reason)


def assert_refused(cluster: Cluster, kubectl: Kubectl, policy: str, reason: str) -> None:
    """A pod without the secret does not get the private image, although the node has it."""
    container = {"name": "consumer", "image": PRIVATE, "imagePullPolicy": policy}
    name = f"consumer-{policy.lower()}"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    cluster.kubectl("apply", "-n", kubectl.namespace, "-f", "-", input=json.dumps(pod))

    def reasons() -> bool:
        found = kubectl.get("pod", name) or {}
        statuses = (found.get("status") or {}).get("containerStatuses") or [{}]
        told = (statuses[0].get("state") or {}).get("waiting", {}).get("reason", "")
        return told in (reason, "ImagePullBackOff")

    eventually(reasons, 60)


def test_a_pull_secret_that_is_missing_or_fits_nothing_is_named(
    cluster: Cluster, namespace: str, module: Module, access: Any
) -> None:
    cluster.push(PUBLIC)
    cluster.kubectl("create", "namespace", namespace)
    make_secret(cluster, namespace)
    options = {"images": {"other": "other.example.com/x:1"}, "image_pull_secrets": "team;gone", **access}
    plan = module("config", preflight=True, check=True, **options)["plan"]
    told = levels(plan, "pull_secrets")
    assert {message.partition(". ")[0]: level for message, level in told.items()} == {
        "the pull secret gone is not in the namespace": "error",
        "the pull secret team is for registry.example.com, and fits none of the images": "warning",
    }


OTHER = "hunter2-of-the-auth-file"


@pytest.fixture(name="logins")
def _logins(cluster: Cluster, namespace: str, private: None, tmp_path: pathlib.Path, access: Any) -> dict[str, Any]:
    """Options with a pull secret and an auth file."""
    cluster.kubectl("create", "namespace", namespace)
    make_secret(cluster, namespace)
    auth_file = tmp_path / "auth.json"
    auth_file.write_text(json.dumps({"auths": {cluster.registry: {"username": USER, "password": OTHER}}}))
    return {"image_pull_secrets": "team", "registry_auth_file": str(auth_file), **access}


def secrets_in(text: str) -> list[str]:
    """Which of the passwords a text shows, plain or as registries and Secrets have them."""
    secrets = [PASSWORD, OTHER, f"{USER}:{PASSWORD}", f"{USER}:{OTHER}"]
    secrets += [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in secrets]
    return [secret for secret in secrets if secret in text]


@contextlib.contextmanager
def process_lists() -> Iterator[set[str]]:
    """What everybody on this machine can see of the processes' arguments meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # It has ended.
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_secrets_are_never_shown(playbook: Playbook, core: str, logins: dict[str, Any]) -> None:
    told = playbook("plan", "-vvvv", core=core, images={"java11": PRIVATE}, **logins).stdout
    assert f"[core {core}" in told
    assert "pull secret team" in told
    assert secrets_in(told) == []


@pytest.mark.thorough
def test_an_installation_shows_no_secret_in_its_output_its_processes_or_the_controllers_log(
    cluster: Cluster, namespace: str, playbook: Playbook, kubectl: Kubectl, logins: dict[str, Any]
) -> None:
    """With a controller that reads the pull secret itself, and asks the registry with it."""
    with process_lists() as seen:
        planned = playbook("plan", "-vvvv", images={"java11": PRIVATE}, **logins).stdout
        since = time.time()
        installed = playbook("install", "-vvvv", images={"java11": PRIVATE}, preflight="off", **logins).stdout
    assert any("kubecache.image_puller.install" in arguments for arguments in seen), "nobody looked"
    assert secrets_in("\n".join(seen)) == []
    assert "1 of 1 image cached on both nodes" in installed
    assert secrets_in(planned + installed) == []

    def asked() -> bool:
        """By the controller: nodes say on whose behalf they ask a mirror, and Ansible asks nothing here."""
        requests = [request for request in cluster.registry_requests(since) if "?ns=" not in request["path"]]
        return any("preflight-private" in request["path"] and request["status"] == 200 for request in requests)

    eventually(asked, 200)
    log = cluster.kubectl("logs", "-n", namespace, "deployment/kubernetes-image-puller", "--tail=-1")
    assert "INFO k8s-image-puller: Healthy" in log
    assert secrets_in(log) == []
    kept = json.dumps([kubectl.list(kind) for kind in ("event", "daemonset", "configmap", "deployment", "pod")])
    assert secrets_in(kept) == []


@pytest.mark.usefixtures("private")
def test_sizes_that_nobody_told_are_asked_of_registries_if_somebody_wants_that(
    cluster: Cluster, module: Module, tmp_path: pathlib.Path, access: Any
) -> None:
    cluster.push(PUBLIC)
    module("install", images={"java11": PUBLIC, "private": PRIVATE}, controller=False, daemonset=True)

    def rows(**options: Any) -> dict[tuple[str, str], Any]:
        found = module("info", **options)["rows"]
        return {(row["name"], row["state"]): row["size"] for row in found}

    told = {("java11", "cached"), ("private", "failed")}
    eventually(lambda: rows().keys() == told and rows()["java11", "cached"], 60)
    before = rows(**access)
    assert before["private", "failed"] is None
    auth_file = tmp_path / "auth.json"
    auth_file.write_text(json.dumps({"auths": {"registry.example.com": {"username": USER, "password": PASSWORD}}}))
    after = rows(registry_sizes=True, registry_auth_file=str(auth_file), **access)
    assert after["private", "failed"] > 0
    assert after["java11", "cached"] == before["java11", "cached"]
    unknown = module("info", registry_sizes=True, **access)
    assert {row["size"] for row in unknown["rows"] if row["name"] == "private"} == {None}
    assert f"the size of {PRIVATE} is unknown: " in json.dumps(unknown["warnings"])


def test_an_installation_warns_of_what_may_not_work_and_goes_on(
    cluster: Cluster, quota: Callable[..., None], playbook: Playbook, kubectl: Kubectl, access: Any
) -> None:
    cluster.push(PUBLIC)
    quota(pods="1")
    told = playbook("install", images=IMAGES, wait=False, controller=False, **access).stdout
    assert "ResourceQuota small is too small in pods: 2 needed, 1 of 1 left, 1 missing." in " ".join(told.split())
    assert kubectl.get("daemonset", DAEMONSET)
    silent = playbook("install", images=IMAGES, wait=False, controller=False, preflight=False, **access).stdout
    assert "ResourceQuota small" not in silent


def test_without_rights_the_rest_is_unknown_and_said_once(
    cluster: Cluster, namespace: str, module: Module, access: Any
) -> None:
    cluster.push(PUBLIC)
    cluster.kubectl("create", "namespace", namespace)
    verbs = ["--verb=get,create,patch", "--resource=configmaps"]
    cluster.kubectl("create", "role", "r", *verbs, "-n", namespace)
    cluster.kubectl("create", "rolebinding", "r", "--role=r", "--user=planner", "-n", namespace)
    options = {"image_pull_secrets": "team", "impersonate_user": "planner", **access}
    plan = module("config", images=IMAGES, preflight=True, check=True, **options)["plan"]
    assert plan["verdict"] == "Fits", plan["findings"]
    assert plan["nodes"]["matching"] is None
    assert plan["cost"]["total"]["pods"] is None
    assert plan["images"][0]["state"] == "found"
    notes = levels(plan, "unread")
    assert set(notes.values()) == {"note"}
    assert any('resources ["secrets"], verbs ["get"]' in note for note in notes)
    assert any('resources ["nodes"], verbs ["list"]' in note for note in notes)


# --- OpenShift, as far as an API server with two of its types goes ----------------------------------------------------


def crd(group: str, kind: str, plural: str) -> dict[str, Any]:
    """A minimal definition of one of OpenShift's types, which takes any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [version],
        },
    }


@pytest.fixture(name="openshift")
def _openshift(cluster: Cluster) -> Iterator[None]:
    """The types by which OpenShift is known, and a stand-in for its admission.

    As restricted-v2 (MustRunAsRange) does, it admits pods that name no user, and none that name one of their own. And
    as where somebody took image volumes out of its list, none that has them.
    """
    review = crd("security.openshift.io", "PodSecurityPolicyReview", "podsecuritypolicyreviews")
    rule = {
        "apiGroups": ["security.openshift.io"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["podsecuritypolicyreviews"],
    }
    answer = (
        "(has(object.spec.template.spec.securityContext.runAsUser) || object.spec.template.spec.containers.exists(c, "
        "has(c.securityContext.runAsUser)) || object.spec.template.spec.volumes.exists(v, has(v.image))) "
        '? [JSONPatch{op: "add", path: "/status", value: {"allowedServiceAccounts": []}}] '
        ': [JSONPatch{op: "add", path: "/status", value: {"allowedServiceAccounts": [{"name": '
        'dyn(object.spec.serviceAccountNames[0]), "allowedBy": dyn({"kind": "SecurityContextConstraints", '
        '"name": "restricted-v2"})}]}}]'
    )
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "stand-in-for-scc"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "reinvocationPolicy": "Never",
            "failurePolicy": "Fail",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": answer}}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "stand-in-for-scc"},
        "spec": {"policyName": "stand-in-for-scc"},
    }
    made = [crd("route.openshift.io", "Route", "routes"), review, policy, binding]
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    try:
        cluster.kubectl("apply", "-f", "-", input=bundle)
        for name in ("routes.route.openshift.io", "podsecuritypolicyreviews.security.openshift.io"):
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", input=bundle)


@pytest.mark.usefixtures("openshift")
def test_on_openshift_the_plan_names_the_scc_and_the_missing_annotation(
    cluster: Cluster, namespace: str, module: Module, access: Any
) -> None:
    cluster.push(PUBLIC)
    cluster.kubectl("create", "namespace", namespace)
    mark = cluster.audit_mark()

    def plan() -> dict[str, Any]:
        found: dict[str, Any] = module("config", images=IMAGES, preflight=True, check=True, **access)["plan"]
        return found

    eventually(lambda: plan()["scc"] == "restricted-v2")  # A policy takes a moment to become active.
    (note,) = levels(plan(), "scc")
    assert note.startswith("the namespace has no annotation openshift.io/node-selector")
    reviews = [event for event in cluster.audit(mark) if event["resource"] == "podsecuritypolicyreviews"]
    assert reviews
    assert all("dryRun=All" in event["uri"] for event in reviews)
    groups = [{"name": "gpu", "images": IMAGES, "strategy": "image_volume"}]
    options = {"images": IMAGES, "groups": groups, "preflight": "report", "check": True, **access}
    both = module("install", **options)["plan"]
    assert both["verdict"] == "Blocked"
    assert [message for message, level in levels(both, "scc").items() if level == "error"] == [
        "no SecurityContextConstraints admit the pods of kubernetes-image-puller-gpu (none fits them). "
        "Remedy: grant their ServiceAccount the use of restricted-v2"
    ]
