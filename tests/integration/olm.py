# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the Operator Lifecycle Manager: what it does with a Subscription to our package, as far as it matters.

It stands for this behaviour: a Subscription beside an OperatorGroup gets the ClusterServiceVersion of the bundle; the
definition is applied with OLM's label, account, Role and Deployment are made, owned by the ClusterServiceVersion, the
target namespaces are written on the pod; phase and names come into the statuses. With two OperatorGroups in a namespace
the ClusterServiceVersion there fails. It resolves nothing, upgrades nothing, has no catalog (the bundle is the one of
this checkout), and gives rights in the OperatorGroup's own namespace only.
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import yaml

from ansible_collections.kubecache.image_puller.plugins.module_utils.operator import PACKAGE
from tests.cluster import Cluster, ClusterError
from tests.running import ROOT

_BUNDLE = ROOT / "deploy" / "olm" / "bundle" / "manifests"
_KINDS = {"OperatorGroup": "v1", "Subscription": "v1alpha1", "ClusterServiceVersion": "v1alpha1"}
_RBAC = "rbac.authorization.k8s.io"


def _definition(kind: str, version: str) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.operators.coreos.com"},
        "spec": {
            "group": "operators.coreos.com",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{**served, "subresources": {"status": {}}}],
        },
    }


class StandIn:
    """Works while it is entered.

    ``failure``: reason and message with which the next ClusterServiceVersion fails; empty: it does not.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.failure: dict[str, str] = {}
        self._cluster = cluster
        self._installed = set[str]()  # The uids of Subscriptions.
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._csv, self._definition = (
            yaml.safe_load(next(_BUNDLE.glob(f"*.{kind}.yaml")).read_text(encoding="utf-8"))
            for kind in ("clusterserviceversion", "crd")
        )

    def __enter__(self) -> StandIn:
        definitions = [_definition(kind, version) for kind, version in _KINDS.items()]
        self._apply(*definitions)
        for definition in definitions:
            name = f"crd/{definition['metadata']['name']}"
            self._cluster.kubectl("wait", "--for=condition=Established", name, "--timeout=30s")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        names = [f"{kind.lower()}s.operators.coreos.com" for kind in _KINDS]
        self._cluster.kubectl("delete", "crd", *names, "--ignore-not-found", "--timeout=60s")

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(ClusterError):  # A namespace goes away meanwhile.
                for subscription in self._list("subscriptions"):
                    if subscription["spec"]["name"] == PACKAGE:
                        self._serve(subscription)

    def _serve(self, subscription: dict[str, Any]) -> None:
        namespace = subscription["metadata"]["namespace"]
        groups = self._list("operatorgroups", namespace)
        found = [
            csv
            for csv in self._list("clusterserviceversions", namespace)
            if csv["metadata"]["name"] == self._csv["metadata"]["name"]
        ]
        if len(groups) != 1:  # As OLM has it: none or two, and nothing is installed.
            for csv in found if groups else ():
                self._status("clusterserviceversion", csv, phase="Failed", reason="TooManyOperatorGroups")
        elif not found:
            # Once, as OLM does: a ClusterServiceVersion that somebody removes afterwards does not come again.
            if subscription["metadata"]["uid"] not in self._installed:
                self._install(namespace, groups[0]["spec"]["targetNamespaces"])
                self._installed.add(subscription["metadata"]["uid"])
        elif found[0].get("status", {}).get("phase") != "Succeeded":
            self._look(found[0], subscription)

    def _install(self, namespace: str, targets: list[str]) -> None:
        label = {f"operators.coreos.com/{PACKAGE}.{namespace}": ""}
        definition, metadata = self._definition, self._definition["metadata"]
        self._apply({**definition, "metadata": {**metadata, "labels": {**metadata["labels"], **label}}})
        self._apply(self._csv, namespace=namespace)
        (csv,) = self._list("clusterserviceversions", namespace)
        owner = {key: csv[key] for key in ("apiVersion", "kind")} | {
            key: csv["metadata"][key] for key in ("name", "uid")
        }
        strategy = csv["spec"]["install"]["spec"]
        (permission,), (deployed,) = strategy["permissions"], strategy["deployments"]
        account, name = permission["serviceAccountName"], f"{csv['metadata']['name']}-abcde"
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        reference = {"apiGroup": _RBAC, "kind": "Role", "name": name}
        annotations = {"olm.targetNamespaces": ",".join(targets), "olm.operatorNamespace": namespace}
        template = deployed["spec"]["template"]
        template = {**template, "metadata": {**template["metadata"], "annotations": annotations}}
        made = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "Role",
                "metadata": {"name": name},
                "rules": permission["rules"],
            },
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": name},
                "roleRef": reference,
                "subjects": [subject],
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": deployed["name"], "labels": deployed["label"]},
                "spec": {**deployed["spec"], "template": template},
            },
        ]
        for obj in made:
            obj["metadata"]["ownerReferences"] = [owner]
        self._apply(*made, namespace=namespace)

    def _look(self, csv: dict[str, Any], subscription: dict[str, Any]) -> None:
        namespace, name = csv["metadata"]["namespace"], csv["metadata"]["name"]
        if self.failure:
            self._status("clusterserviceversion", csv, phase="Failed", **self.failure)
            self._status("subscription", subscription, currentCSV=name)
            return
        (deployed,) = csv["spec"]["install"]["spec"]["deployments"]
        told = self._cluster.kubectl("get", "deployment", deployed["name"], "-n", namespace, "-o", "json")
        available = json.loads(told).get("status", {}).get("availableReplicas")
        self._status("clusterserviceversion", csv, phase="Succeeded" if available else "Installing")
        self._status("subscription", subscription, currentCSV=name, **({"installedCSV": name} if available else {}))

    def _status(self, kind: str, obj: dict[str, Any], **status: str) -> None:
        data, patch = obj["metadata"], json.dumps({"status": status})
        arguments = ("--subresource=status", "--type=merge", "-p", patch, "-n", data["namespace"])
        self._cluster.kubectl("patch", f"{kind}s.operators.coreos.com", data["name"], *arguments)

    def _list(self, plural: str, namespace: str = "") -> list[dict[str, Any]]:
        where = ("-n", namespace) if namespace else ("-A",)
        told = self._cluster.kubectl("get", f"{plural}.operators.coreos.com", *where, "-o", "json")
        items: list[dict[str, Any]] = json.loads(told)["items"]
        return [item for item in items if not item["metadata"].get("deletionTimestamp")]

    def _apply(self, *made: dict[str, Any], namespace: str = "default") -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(made)}
        self._cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(items))
