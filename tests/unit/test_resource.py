# SPDX-License-Identifier: GPL-3.0-or-later
"""The custom resource: a third form of the settings, a definition that says what is wrong, a status that is true."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from ansible_collections.kubecache.image_puller.plugins.module_utils import resource as module
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import (
    IMAGE,
    Installation,
    RegistryAccess,
    Resources,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS, STATUS
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    KIND,
    KNOWN_FIELDS,
    Refusal,
    Seen,
    about,
    crd,
    default_of,
    is_foreign,
    merge_patch,
    objects_of,
    read_resource,
    resource_of,
    ruling,
    spec_fields,
    status_of,
    superseded,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    DEFAULT_IMAGES,
    FIELDS,
    HELPER_IMAGE,
    fingerprint,
    from_options,
    from_spec,
    require,
    to_spec,
)
from tests.unit import objects

NOW = "2026-11-20T12:00:00Z"


def resource(name: str = "puller", spec: Any = (), **metadata: Any) -> dict[str, Any]:
    data = {"name": name, "namespace": "cache", "uid": f"uid-{name}", "generation": 3, **metadata}
    return {"apiVersion": "che.eclipse.org/v1alpha1", "kind": KIND, "metadata": data, "spec": dict(spec)}


# --- what it asks for ------------------------------------------------------------------------------------------------


@given(objects.good_options)
def test_a_spec_is_the_same_settings_in_a_third_form(options: dict[str, Any]) -> None:
    settings = require(from_options(options))
    assert require(from_spec(to_spec(settings), settings.namespace)) == settings


@given(objects.good_options)
def test_the_definition_admits_whatever_the_settings_print(options: dict[str, Any]) -> None:
    for field, text in to_spec(require(from_options(options))).items():
        assert admits(field, text), (field, text)


def test_an_installation_survives_the_way_through_a_resource() -> None:
    installation = Installation(
        config_map_name="other",
        deployment_name="puller",
        service_account_name="account",
        image="registry.example.com/team/image-puller:2",
        deployment_priority_class_name="system-cluster-critical",
        resources=Resources(cpu_request="10m", memory_limit="1Gi"),
        registries=RegistryAccess(
            {"quay.io": ("m.example.com/quay",), "docker.io": ("a.example.com", "b.example.com:5000")},
            ("m.example.com", "http://10.0.0.1:5000"),
            "authorities",
            {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".internal"},
        ),
    )
    settings = objects.settings(cache_service_account_name="image-puller-cache")
    asked = read_resource(resource_of(settings, installation, "puller"))
    assert (asked.settings, asked.installation, asked.problems) == (settings, installation, ())


def test_nothing_said_is_the_documented_default() -> None:
    asked = read_resource(resource())
    assert asked.settings
    assert asked.settings.images == DEFAULT_IMAGES
    assert asked.settings.namespace == "cache"
    assert asked.installation == Installation()


def test_the_known_capitals_are_understood() -> None:
    asked = read_resource(resource(spec={"cachingCPULimit": "3", "cachingCPURequest": "1", "daemonsetName": "d"}))
    assert asked.settings
    assert (asked.settings.caching_cpu_limit, asked.settings.daemonset_name) == ("3", "d")
    assert set(KNOWN_FIELDS) <= set(spec_fields())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"cachingMemoryLimit": "lots"}, "cachingMemoryLimit 'lots': it is no Kubernetes quantity"),
        ({"nodeSelector": "{"}, "nodeSelector '{'"),
        ({"images": "a"}, "images, entry 1 'a': there is no '='"),
        ({"configMapName": "No"}, "configMapName 'No': it is no name of a Kubernetes object"),
        ({"deploymentCPULimit": "x"}, "deploymentCPULimit 'x'"),
        ({"refresh": "digests"}, "refresh 'digests': it is no "),
        ({"registryMirrors": '{"team": "r.example.com"}'}, "registryMirrors 'team': it names no registry"),
        ({"registryInsecure": "r.example.com;/x"}, "registryInsecure '/x': "),
        ({"registryCAConfigMap": "My CA"}, "registryCAConfigMap 'My CA': it is no name of a Kubernetes object"),
        ({"registryProxy": '{"https": "http://p:1"}'}, "registryProxy '{"),
        ({"cachingMemoryRequest": "1Gi"}, "above the limit cachingMemoryLimit (20Mi, the default)"),
    ],
)
def test_what_spoils_the_set_is_named_with_its_field(spec: dict[str, str], said: str) -> None:
    asked = read_resource(resource(spec=spec))
    assert asked.settings is None
    assert said in str(asked.problems[0])
    assert "Remedy:" in str(asked.problems[0])


def test_a_bad_entry_leaves_the_good_ones() -> None:
    asked = read_resource(resource(spec={"images": "Bad=x/Y:1;java11=quay.io/java:1"}))
    assert asked.settings
    assert [image.name for image in asked.settings.images] == ["java11"]
    assert "images, entry 1" in str(asked.problems[0])


@pytest.mark.parametrize(
    ("image", "runs"),
    [
        ("quay.io/eclipse/kubernetes-image-puller:next", IMAGE),
        ("registry.redhat.io/codeready-workspaces/imagepuller-rhel8:2.1", IMAGE),
        ("mirror.example.com/devspaces/imagepuller-rhel9@sha256:" + "a" * 64, IMAGE),
        ("mirror.example.com/team/image-puller:1", "mirror.example.com/team/image-puller:1"),
        ("", IMAGE),
    ],
)
def test_the_known_controller_is_not_run_by_our_operator(image: str, runs: str) -> None:
    asked = read_resource(resource(spec={"imagePullerImage": image}))
    assert asked.installation.image == runs
    assert bool(asked.notes) == (bool(image) and runs == IMAGE)


def test_all_objects_are_owned_by_the_resource_in_its_namespace() -> None:
    made = objects_of(resource(), objects.settings(namespace="cache"), Installation())
    kinds = [obj["kind"] for obj in made]
    assert kinds == ["ServiceAccount", "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "Deployment"]
    for obj in made:
        assert obj["metadata"]["namespace"] == "cache"
        (owner,) = obj["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == (KIND, "uid-puller")
        assert "blockOwnerDeletion" not in owner  # It would ask for rights on finalizers.


def test_those_that_wait_own_what_they_may_take_over() -> None:
    waiting = [resource("second"), resource("third")]
    made = objects_of(resource(), objects.settings(namespace="cache"), Installation(), waiting)
    for obj in made:
        owners = obj["metadata"]["ownerReferences"]
        told = [(owner["uid"], owner.get("controller", False)) for owner in owners]
        assert told == [("uid-puller", True), ("uid-second", False), ("uid-third", False)]


def test_the_oldest_that_stays_rules() -> None:
    old = resource("b", creationTimestamp="2026-01-01T00:00:00Z")
    same = resource("c", creationTimestamp="2026-01-01T00:00:00Z")
    young = resource("a", creationTimestamp="2026-01-02T00:00:00Z")
    going = resource("z", creationTimestamp="2025-01-01T00:00:00Z", deletionTimestamp=NOW)
    assert ruling([young, same, going, old]) is old
    assert ruling([going]) is None


@pytest.mark.parametrize(
    ("labels", "owners", "foreign"),
    [
        ({}, [], True),
        (LABELS, [], False),
        ({}, [{"kind": KIND, "apiVersion": "che.eclipse.org/v1alpha1"}], False),
        (LABELS, [{"kind": "Application", "apiVersion": "example.com/v1", "controller": True}], True),
        (LABELS, [{"kind": KIND, "apiVersion": "example.com/v1", "controller": True}], True),
    ],
)
def test_what_somebody_else_made_is_not_ours_to_take(labels: Any, owners: Any, foreign: bool) -> None:
    assert is_foreign({"metadata": {"labels": labels, "ownerReferences": owners}}) is foreign


# --- the definition --------------------------------------------------------------------------------------------------


def spec_schema() -> dict[str, Any]:
    (version,) = crd()["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return found


def admits(field: str, text: str) -> bool:
    """Whether the rule of the definition lets a text in; its patterns mean the same in Python."""
    (rule,) = spec_schema()[field]["x-kubernetes-validations"]
    (pattern,) = map(json.loads, re.findall(r"^self\.matches\((.*)\)$", rule["rule"]))
    return re.search(pattern, text) is not None


def test_every_setting_is_a_field_with_a_description() -> None:
    assert set(spec_schema()) == set(spec_fields()) == set(module._ABOUT)
    assert {field.spec for field in FIELDS} - {"namespace"} <= set(spec_fields())
    for field, schema in spec_schema().items():
        assert schema["type"] == "string"
        assert schema["description"] == about(field)
        assert "default" not in schema  # Shown, not written.


def test_defaults_are_told_and_admitted() -> None:
    assert default_of("helperImage") == HELPER_IMAGE
    assert default_of("imagePullerImage") == IMAGE
    assert about("cachingMemoryLimit").endswith("Default: 20Mi")
    for field in spec_fields():
        assert admits(field, default_of(field)), field
        assert admits(field, ""), field


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("images", ["a=b;c=d", " a = b ;\n c=d;\n", '[{"name": "a", "image": "b"}]'], ["a", "a;b"]),
        ("cachingIntervalHours", ["1", "0.5", ".5", "24", "1.0", "10"], ["0", "0.0", "-1", "one", "1h"]),
        ("cachingMemoryLimit", ["20Mi", "1e3", "1.5Gi", "100"], ["20 Mi", "20MB", "lots"]),
        ("cachingCPULimit", [".2", "200m", "0.2"], ["2 cores", "m"]),
        ("nodeSelector", ["{}", ' {"a": "b"}\n', "null"], ["a=b", "[]", "{"]),
        ("tolerations", ["[]", '[{"operator": "Exists"}]', "null"], ["{}", "Exists"]),
        ("daemonsetName", ["kubernetes-image-puller", "a.b"], ["Puller", "a_b", "-a"]),
        ("imagePullSecrets", ["a;b", "a; b;"], ["A", "a,b"]),
        ("imagePullerImage", ["quay.io/eclipse/kubernetes-image-puller:next"], ["a b"]),
        ("strategy", ["sleep", "image_volume", "auto"], ["volume", "Sleep"]),
        ("maxUnavailable", ["1", "10%", "100%"], ["0", "101%", "ten"]),
        ("refresh", ["digest", "restart", "never"], ["Digest", "always", "true"]),
        ("registryMirrors", ['{"quay.io": ["a", "b"]}', "null"], ["quay.io=a", "[]"]),
        ("registryInsecure", ["r.example.com; http://[::1]:5000;", "10.0.0.1:5000"], ["r.example.com/a b?", "r@s"]),
        ("registryCAConfigMap", ["registry-authorities"], ["Authorities", "a b"]),
        ("registryProxy", ['{"HTTPS_PROXY": "http://p:3128"}'], ["http://p:3128"]),
    ],
)
def test_what_can_be_said_of_a_text_is_said_by_the_api_server(field: str, good: list[str], bad: list[str]) -> None:
    assert all(admits(field, text) for text in good)
    assert not any(admits(field, text) for text in bad)


# --- what its status tells -------------------------------------------------------------------------------------------

SETTINGS = objects.settings(namespace="cache")


def daemonset(verdict: str = "Healthy", *, generation: int = 5, **more: Any) -> dict[str, Any]:
    summary = {"images": 2, "nodes": 3, "cached": 6, "pulling": 0, "waiting": 0, "failed": 0}
    told = {"verdict": verdict, "reasons": [], "summary": summary, "failures": [], "generation": generation}
    text = json.dumps({**told, "settings": fingerprint(SETTINGS), **more})
    return {"metadata": {"generation": 5, "annotations": {STATUS: text}}}


def conditions(told: Seen, live: dict[str, Any] | None = None) -> dict[str, tuple[str, str]]:
    status = status_of(live or resource(), told, NOW)
    assert {c["observedGeneration"] for c in status["conditions"]} == {status["observedGeneration"]} == {3}
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_ready_means_that_the_images_are_on_the_nodes() -> None:
    told = Seen(settings=SETTINGS, daemonset=daemonset(), image=IMAGE)
    assert conditions(told) == {
        "Ready": ("True", "Healthy"),
        "Progressing": ("False", "Healthy"),
        "Degraded": ("False", "Healthy"),
    }
    status = status_of(resource(), told, NOW)
    assert (status["progress"], status["nodes"], status["imagePullerImage"]) == ("6/6", 3, IMAGE)
    assert "6/6 cached on 3 nodes" in status["conditions"][0]["message"]


@pytest.mark.parametrize(
    "live",
    [
        None,
        {"metadata": {"generation": 5}},
        {"metadata": {"generation": 5, "annotations": {STATUS: "no JSON"}}},
        {"metadata": {"generation": 5, "annotations": {STATUS: "[]"}}},
        daemonset(summary={"cached": "many"}),
        daemonset(summary=[1]),
        daemonset(reasons="why"),
        daemonset(failures=[{"name": "a"}]),
        daemonset("Splendid"),
        daemonset(generation=4),
        daemonset(settings="of others"),
    ],
)
def test_a_verdict_on_something_else_makes_nothing_ready(live: dict[str, Any] | None) -> None:
    found = conditions(Seen(settings=SETTINGS, daemonset=live))
    assert found["Ready"] == ("False", "Reconciling")
    assert found["Progressing"][0] == "True"
    assert found["Degraded"][0] == "False"


@pytest.mark.parametrize(
    ("verdict", "ready", "progressing", "degraded"),
    [
        ("Progressing", "False", "True", "False"),
        ("Degraded", "False", "False", "True"),
        ("NoMatchingNodes", "False", "False", "False"),
        ("InvalidSettings", "False", "False", "True"),
    ],
)
def test_each_verdict_has_its_conditions(verdict: str, ready: str, progressing: str, degraded: str) -> None:
    found = conditions(Seen(settings=SETTINGS, daemonset=daemonset(verdict)))
    assert [found[type_][0] for type_ in ("Ready", "Progressing", "Degraded")] == [ready, progressing, degraded]


def test_settings_that_the_controller_does_not_follow_are_degraded_with_the_reason() -> None:
    told: dict[str, Any] = {
        "settings": "",
        "reasons": ["image volumes can't be"],
        "not_followed": {fingerprint(SETTINGS): ["why"]},
    }
    seen = Seen(settings=SETTINGS, daemonset=daemonset("Degraded", **told))
    assert conditions(seen)["Degraded"] == ("True", "Degraded")
    assert "image volumes can't be" in status_of(resource(), seen, NOW)["conditions"][0]["message"]
    early = Seen(settings=SETTINGS, daemonset=daemonset("Healthy", **told))
    assert conditions(early)["Ready"] == ("False", "Reconciling"), "the verdict was made before"


def test_a_refusal_says_why_and_what_helps() -> None:
    refused = Seen(refusal=Refusal("ForeignObject", "it is not ours"), daemonset=daemonset(), settings=SETTINGS)
    assert conditions(refused)["Ready"] == ("False", "ForeignObject")
    assert conditions(refused)["Degraded"] == ("True", "ForeignObject")
    waits = status_of(resource(), Seen(refusal=superseded("first")), NOW)["conditions"][0]
    assert (waits["reason"], "KubernetesImagePuller first" in waits["message"]) == ("Superseded", True)


def test_entries_that_were_left_out_are_told_beside_those_that_are_cached() -> None:
    told = Seen(settings=SETTINGS, daemonset=daemonset(), problems=("images, entry 2 'x': bad. Remedy: mend it.",))
    found = conditions(told)
    assert (found["Ready"], found["Degraded"]) == (("False", "InvalidSettings"), ("True", "InvalidSettings"))


def test_what_keeps_the_controller_from_running_is_told() -> None:
    found = status_of(resource(), Seen(settings=SETTINGS, trouble="its image can't be pulled"), NOW)["conditions"]
    assert {c["type"]: c["status"] for c in found} == {"Ready": "False", "Progressing": "True", "Degraded": "True"}
    assert "its image can't be pulled" in found[0]["message"]


@pytest.mark.parametrize(
    ("hindered", "reason"),
    [(Seen(trouble="it crashes"), "ControllerUnavailable"), (Seen(paused="it is undone"), "Paused")],
)
def test_what_hinders_is_told_beside_an_old_verdict(hindered: Seen, reason: str) -> None:
    found = status_of(resource(), replace(hindered, settings=SETTINGS, daemonset=daemonset()), NOW)["conditions"]
    told = {c["type"]: (c["status"], c["reason"]) for c in found}
    assert (told["Ready"][0], told["Degraded"]) == ("True", ("True", reason))
    assert all(hindered.hindered[1] in c["message"] for c in found if c["type"] != "Progressing")


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    told = Seen(settings=SETTINGS, daemonset=daemonset())
    before = resource()
    before["status"] = status_of(before, told, NOW)
    later = "2026-11-20T13:00:00Z"
    assert status_of(before, told, later) == before["status"]
    after = status_of(before, Seen(settings=SETTINGS, daemonset=daemonset("Degraded")), later)["conditions"]
    assert {c["type"]: c["lastTransitionTime"] for c in after} == {
        "Ready": later,
        "Progressing": NOW,
        "Degraded": later,
    }


def test_a_status_stays_small_and_forgets_what_has_passed() -> None:
    failures = [{"name": f"i{n}", "image": "x", "class": "network", "nodes": 1, "message": "m"} for n in range(9)]
    worst = status_of(
        resource(),
        Seen(settings=SETTINGS, daemonset=daemonset("Degraded", failures=failures, reasons=["r" * 3000])),
        NOW,
    )
    assert len(worst["failures"]) == 5
    assert max(len(c["message"]) for c in worst["conditions"]) == 1024
    healthy = status_of(resource(), Seen(settings=SETTINGS, daemonset=daemonset()), NOW)
    assert merge_patch(worst, healthy)["failures"] is None
    assert "failures" not in healthy
