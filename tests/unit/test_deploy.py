# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies below deploy/ is what the collection's own source says, and its parts agree."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils import installation, olm, operator
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import LABELS
from ansible_collections.kubecache.image_puller.plugins.module_utils.resource import (
    KNOWN_FIELDS,
    crd,
    default_of,
    read_resource,
    spec_fields,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import DEFAULT_IMAGES
from deploy.__main__ import HERE as ROOT
from deploy.__main__ import files
from tests.unit import objects


def manifest(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return found


CSV = manifest("olm/bundle/manifests/kubecache-image-puller-operator.clusterserviceversion.yaml")


@pytest.mark.parametrize("path", files())
def test_the_manifests_are_up_to_date(path: str) -> None:
    """If not: make manifests."""
    assert (ROOT / path).read_text(encoding="utf-8") == files()[path]


def test_nothing_else_lies_there() -> None:
    """What is made no more would be applied all the same. The monitoring objects are written by hand."""
    made = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    here = {path.relative_to(ROOT).as_posix() for path in made}
    assert {path for path in here if not path.startswith("monitoring/")} == set(files())


def test_the_documented_procedure_finds_its_files_in_any_namespace() -> None:
    """Five files, then the resource: kubectl apply -n says where."""
    crds = "crds/che.eclipse.org_kubernetesimagepullers_crd.yaml"
    five = [crds, "role.yaml", "role_binding.yaml", "service_account.yaml", "operator.yaml"]
    for path in [*five, "crds/che.eclipse.org_v1alpha1_kubernetesimagepuller_cr.yaml"]:
        assert "namespace" not in manifest(f"operator/{path}")["metadata"]
    assert "namespace" not in json.dumps(manifest("operator/role_binding.yaml")["subjects"])
    assert sorted(manifest("operator/kustomization.yaml")["resources"]) == sorted(five)
    assert manifest(f"operator/{crds}") == crd()


def test_the_bundle_asks_for_the_same_rights_and_runs_the_same_operator() -> None:
    strategy = CSV["spec"]["install"]["spec"]
    (permission,), (deployed,) = strategy["permissions"], strategy["deployments"]
    assert "clusterPermissions" not in strategy
    assert permission["rules"] == manifest("operator/role.yaml")["rules"] == operator.rules()
    assert permission["serviceAccountName"] == manifest("operator/service_account.yaml")["metadata"]["name"]
    by_hand = manifest("operator/operator.yaml")["spec"]
    watch = by_hand["template"]["spec"]["containers"][0]["env"][0]
    assert watch["name"] == "WATCH_NAMESPACE"
    assert watch["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    watch["valueFrom"]["fieldRef"]["fieldPath"] = "metadata.annotations['olm.targetNamespaces']"
    assert deployed["spec"] == by_hand
    assert manifest("olm/bundle/manifests/kubernetesimagepullers.che.eclipse.org.crd.yaml") == crd()


def test_the_operator_may_give_the_controller_each_of_its_rights() -> None:
    """Nobody may give away rights that he does not have."""

    def rights(rules: Any) -> set[tuple[str, str, str]]:
        return {
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    controller = installation.controller(installation.Installation(), objects.settings(image_pull_secrets="a"))
    (role,) = [obj for obj in controller if obj["kind"] == "Role"]
    assert rights(role["rules"]) <= rights(operator.rules())
    assert "*" not in json.dumps(operator.rules())
    (secrets,) = [rule for rule in operator.rules() if "secrets" in rule["resources"]]
    assert secrets["verbs"] == ["get"]  # So that it can let the controller read those that a resource names.


def test_no_manifest_names_a_user() -> None:
    """OpenShift assigns one; the image has one."""
    assert not [path for path, text in files().items() if "runAsUser" in text]


def test_the_bundle_says_what_olm_wants_to_know() -> None:
    spec = CSV["spec"]
    assert {mode["type"]: mode["supported"] for mode in spec["installModes"]} == {
        "OwnNamespace": True,
        "SingleNamespace": True,
        "MultiNamespace": False,
        "AllNamespaces": True,
    }
    (owned,) = spec["customresourcedefinitions"]["owned"]
    assert owned["name"] == crd()["metadata"]["name"]
    assert {descriptor["path"] for descriptor in owned["specDescriptors"]} == set(spec_fields())
    (version,) = crd()["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert {descriptor["path"] for descriptor in owned["statusDescriptors"]} <= set(status)
    assert "<svg" in base64.b64decode(spec["icon"][0]["base64data"]).decode()
    assert CSV["metadata"]["name"] == f"{operator.PACKAGE}.v{spec['version']}"


def test_the_example_is_one_that_works() -> None:
    (example,) = json.loads(CSV["metadata"]["annotations"]["alm-examples"])
    assert example == manifest("operator/crds/che.eclipse.org_v1alpha1_kubernetesimagepuller_cr.yaml")
    example["metadata"]["namespace"] = "cache"
    asked = read_resource(example)
    assert (asked.problems, asked.settings and asked.settings.images) == ((), DEFAULT_IMAGES)


def test_package_channel_and_bundle_agree() -> None:
    package, channel, bundle = manifest("olm/catalog-template.yaml")["entries"]
    annotations = manifest("olm/bundle/metadata/annotations.yaml")["annotations"]
    prefix = "operators.operatorframework.io.bundle"
    assert package["name"] == channel["package"] == annotations[f"{prefix}.package.v1"] == operator.PACKAGE
    assert package["name"] != operator.KNOWN_PACKAGE
    assert package["defaultChannel"] == channel["name"] == annotations[f"{prefix}.channels.v1"] == "stable"
    assert channel["entries"][-1]["name"] == CSV["metadata"]["name"]
    assert bundle["image"].endswith(f":{installation.VERSION}")


def test_a_later_release_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(olm, "RELEASES", ("0.0.9", installation.VERSION))
    assert olm.csv()["spec"]["replaces"] == "kubecache-image-puller-operator.v0.0.9"
    _package, channel, _bundle = olm.catalog_template()["entries"]
    assert channel["entries"] == [
        {"name": "kubecache-image-puller-operator.v0.0.9"},
        {"name": operator.CSV_NAME, "replaces": "kubecache-image-puller-operator.v0.0.9"},
    ]
    assert "replaces" not in CSV["spec"]


# --- other operators -------------------------------------------------------------------------------------------------


def resource(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "puller", "namespace": "cache", **metadata}}


@pytest.mark.parametrize(
    ("metadata", "theirs"),
    [
        ({}, False),
        ({"labels": LABELS}, False),
        ({"labels": {"app.kubernetes.io/part-of": "che.eclipse.org"}}, True),
        ({"ownerReferences": [{"kind": "CheCluster"}]}, True),
        ({"ownerReferences": [{"kind": "Application"}]}, False),
    ],
)
def test_a_resource_of_che_is_left_alone(metadata: Any, theirs: bool) -> None:
    refusal = operator.served_by_che(resource(**metadata))
    assert bool(refusal) is theirs
    if refusal:
        assert "Remedy:" in refusal.message


def test_the_known_operator_of_olm_is_not_fought() -> None:
    assert operator.served_by_olm([operator.CSV_NAME, "cert-manager.v1.2.3"]) is None
    refusal = operator.served_by_olm(["cert-manager.v1.2.3", "kubernetes-imagepuller-operator.v1.0.3"])
    assert refusal
    assert "kubernetes-imagepuller-operator.v1.0.3" in refusal.message


def group(name: str = "theirs", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "cache"}, "spec": spec}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], ""),
        ([group()], ""),
        ([group(selector={})], ""),
        ([group(targetNamespaces=["cache"])], ""),
        ([group(targetNamespaces=["cache"], selector={"matchLabels": {"a": "b"}})], ""),
        ([group(selector={"matchLabels": {"a": "b"}}) | {"status": {"namespaces": ["cache"]}}], ""),
        ([group(targetNamespaces=["web"])], "OperatorGroup theirs of namespace cache targets web."),
        ([group(targetNamespaces=["web", "cache"])], "OperatorGroup theirs of namespace cache targets cache, web."),
        ([group(selector={"matchLabels": {"a": "b"}})], "targets no namespace that OLM has told yet."),
        (
            [group(selector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}) | {"status": {}}],
            "targets no namespace that OLM has told yet.",
        ),
        ([group("a"), group("b")], "Namespace cache has the OperatorGroups a and b. OLM allows one"),
    ],
)
def test_a_namespace_has_one_operator_group_and_one_that_fits(groups: Any, said: str) -> None:
    told = olm.group_trouble(groups, "cache")
    assert said in told
    assert bool(told) is bool(said)
    assert ("Remedy: " in told) is bool(said)


@pytest.mark.parametrize(
    ("csv", "subscription", "said"),
    [
        (None, None, "no ClusterServiceVersion yet"),
        (
            None,
            {"status": {"conditions": [{"type": "ResolutionFailed", "status": "True", "message": "no such package"}]}},
            "ResolutionFailed: no such package",
        ),
        (
            {"metadata": {"name": "x"}, "status": {"phase": "Failed", "reason": "A", "message": "b"}},
            None,
            "x is Failed (A: b)",
        ),
    ],
)
def test_what_olm_says_is_said(csv: Any, subscription: Any, said: str) -> None:
    assert said in olm.csv_trouble(csv, subscription)


def test_the_documentation_compares_each_field() -> None:
    text = (ROOT.parent / "docs" / "OPERATOR.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): (row[1].strip() == "yes", row[2].strip("` ")) for row in rows if len(row) == 4}
    assert told == {field: (field in KNOWN_FIELDS, default_of(field)) for field in spec_fields()}
