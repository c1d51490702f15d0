# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that talks to an API server.

It asks by path, since the kinds that we keep are known: no discovery, one request for one thing. All errors are
:class:`ApiError` with one sentence that says what was refused, where, and what to grant or change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.kubecache.image_puller.plugins.module_utils.drift import (
    differences,
    owned_fields,
    owned_template,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.names import MANAGER, describe, metadata

PAGE = 500
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"  # To be accepted: no more than that.
TIMEOUT = (5, 60)  # Seconds to connect, and to wait for an answer.


@dataclass(frozen=True)
class Resource:
    """Where the API serves a kind."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The URL path of the collection (of one namespace, or of all) or of one object."""
        prefix = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{prefix}{scope}/{self.plural}" + (f"/{name}" if name else "")


_RBAC = "rbac.authorization.k8s.io"
RESOURCES = {
    "Namespace": Resource("", "v1", "namespaces", namespaced=False),
    "Node": Resource("", "v1", "nodes", namespaced=False),
    "PriorityClass": Resource("scheduling.k8s.io", "v1", "priorityclasses", namespaced=False),
    "RuntimeClass": Resource("node.k8s.io", "v1", "runtimeclasses", namespaced=False),
    "ClusterRole": Resource(_RBAC, "v1", "clusterroles", namespaced=False),
    "ClusterRoleBinding": Resource(_RBAC, "v1", "clusterrolebindings", namespaced=False),
    "ServiceAccount": Resource("", "v1", "serviceaccounts"),
    "Role": Resource(_RBAC, "v1", "roles"),
    "RoleBinding": Resource(_RBAC, "v1", "rolebindings"),
    "ConfigMap": Resource("", "v1", "configmaps"),
    "Pod": Resource("", "v1", "pods"),
    "Event": Resource("", "v1", "events"),
    "Secret": Resource("", "v1", "secrets"),
    "ResourceQuota": Resource("", "v1", "resourcequotas"),
    "LimitRange": Resource("", "v1", "limitranges"),
    "Deployment": Resource("apps", "v1", "deployments"),
    "DaemonSet": Resource("apps", "v1", "daemonsets"),
    "KubernetesImagePuller": Resource("che.eclipse.org", "v1alpha1", "kubernetesimagepullers"),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False),
    "Lease": Resource("coordination.k8s.io", "v1", "leases"),
    "OperatorGroup": Resource("operators.coreos.com", "v1", "operatorgroups"),
    "Subscription": Resource("operators.coreos.com", "v1alpha1", "subscriptions"),
    "ClusterServiceVersion": Resource("operators.coreos.com", "v1alpha1", "clusterserviceversions"),
    "PodSecurityPolicyReview": Resource("security.openshift.io", "v1", "podsecuritypolicyreviews"),
    "Project": Resource("project.openshift.io", "v1", "projects", namespaced=False),
    "ProjectRequest": Resource("project.openshift.io", "v1", "projectrequests", namespaced=False),
    "SelfSubjectAccessReview": Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False),
    "LocalSubjectAccessReview": Resource("authorization.k8s.io", "v1", "localsubjectaccessreviews"),
}
_Rule = tuple[str, str, Any]  # Kind, verb and namespace (None: the cluster) of the right that a request needs.
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Client(Protocol):
    """The one method of ``kubernetes.dynamic.DynamicClient`` that is used."""

    def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Send one request; with ``serialize=False`` the answer is the raw HTTP response."""


# What the authorizer says, and what the API says to somebody who would give away more rights than he has.
_NO_RIGHT = re.compile(r" cannot \S+ (resource|path) |attempting to grant RBAC permissions")


class ApiError(Exception):
    """A request that failed.

    ``status`` is the HTTP status, 0 when there was no answer; ``reason`` Kubernetes' own; ``advice`` the rule to grant
    where a right is missing; ``verb`` what was asked for, as roles name it.
    """

    def __init__(self, message: str, status: int = 0, reason: str = "", advice: str = "", verb: str = "") -> None:
        super().__init__(f"{message}. {advice}" if advice else message)
        self.message = message
        self.status = status
        self.reason = reason
        self.advice = advice
        self.verb = verb

    @property
    def forbidden(self) -> bool:
        """Whether a right is missing; quotas, admission and a namespace that goes away answer 403, too."""
        return self.status == 403 and bool(_NO_RIGHT.search(str(self)))

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return self.status in (0, 408, 429) or self.status >= 500


@dataclass(frozen=True)
class Change:
    """What was (or, in a dry run, would be) done to one object, and which fields were the reason."""

    action: str  # none, created, patched, deleted
    kind: str
    name: str
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.action != "none"


class Cluster:
    """Objects of one cluster: get, list, keep, delete, watch."""

    def __init__(self, client: Client) -> None:
        self.client = client
        #: A namespace that is known not to be there, where the API server would only say that it may not be read.
        self.missing = ""

    @property
    def server(self) -> str:
        """The address of the API server, "" where the client does not tell."""
        return getattr(getattr(self.client, "configuration", None), "host", None) or ""

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, None where there is none."""
        try:
            return self._request("GET", kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, read in pages, and the resource version to watch from."""
        pages = tuple(self.pages(kind, namespace, labels=labels, fields=fields))
        return [item for items, _version in pages for item in items], pages[-1][1]

    def pages(
        self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "", limit: int = PAGE
    ) -> Iterator[tuple[Sequence[dict[str, Any]], str]]:
        """The same, a page of at most ``limit`` objects at a time, for who can't hold them all.

        All pages show the objects of one moment; one that takes too long to come is an ApiError with status 410.
        """
        query: dict[str, Any] = {"limit": limit, "label_selector": labels or None, "field_selector": fields or None}
        while True:
            page = self._request("GET", kind, namespace, query=query)
            yield page.get("items") or [], page["metadata"].get("resourceVersion", "")
            if not page["metadata"].get("continue"):
                return
            query["_continue"] = page["metadata"]["continue"]

    def watch(
        self, kind: str, namespace: str | None, version: str, *, labels: str = "", fields: str = "", seconds: int = 300
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (type, object) until the server ends the watch; an expired version is an ApiError with status 410."""
        query = {
            "watch": "true",
            "resource_version": version,
            "label_selector": labels or None,
            "field_selector": fields or None,
            "timeout_seconds": seconds,
            "allow_watch_bookmarks": "true",
            "_request_timeout": (TIMEOUT[0], seconds + 30),
        }
        target, rule = f"watch {kind}s{f' in {namespace}' if namespace else ''}", (kind, "watch", namespace)
        response = self._send("GET", RESOURCES[kind].path(namespace), target, query=query, rule=rule)
        try:
            for line in _lines(response):
                event = _document(line, target, "watch")
                if event["type"] == "ERROR":
                    status = event["object"]
                    said = f"{status.get('reason')}: {status.get('message')}"
                    code, reason = status.get("code", 0), status.get("reason", "")
                    raise ApiError(f"could not {target}: {said}", code, reason, verb="watch")
                yield event["type"], event["object"]
        except ApiError:
            raise
        except Exception as error:  # The stream broke, in the middle of a line perhaps.
            raise _told(error, target, rule) from error
        finally:
            response.close()

    def keep(self, wanted: dict[str, Any], live: dict[str, Any] | None, *, dry_run: bool = False) -> Change:
        """Bring one object to what is wanted in the fields that we own, and write only where they differ.

        Where they differ, the server's dry run of the same apply has the last word: if it would change nothing, then
        admission rewrites the object, and writing again would be a fight without an end.

        :param live: the object as just read, None where there is none.
        """
        kind = wanted["kind"]
        if live is None:
            made = self._create(wanted, dry_run)
            return Change("created", kind, describe(wanted), {}, _shown(made))
        fields = tuple(differences(wanted, live))
        if not fields:
            return Change("none", kind, describe(wanted), _shown(live), _shown(live))
        if live["metadata"].get("deletionTimestamp"):
            return Change("none", kind, describe(wanted), _shown(live), _shown(live), fields, ("it is being deleted",))
        predicted = self.apply(wanted, dry_run=True)
        adopted = "template" in wanted.get("spec", {}) and owned_fields(live) is None
        if _content(predicted) == _content(live) and not adopted:
            note = f"{describe(wanted)}: changed by admission, left as it is: {', '.join(fields)}"
            return Change("none", kind, describe(wanted), _shown(live), _shown(live), fields, (note,))
        if dry_run:
            return Change("patched", kind, describe(wanted), _shown(live), _shown(predicted), fields)
        if adopted:
            self._take_over(live)
        return Change("patched", kind, describe(wanted), _shown(live), _shown(self.apply(wanted)), fields)

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        propagation: str = "Background",
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> bool:
        """Delete one object (this very one, if a uid is given); False where it was not there any more."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        if uid:
            body["preconditions"] = {"uid": uid}
        if dry_run:
            body["dryRun"] = ["All"]
        try:
            self._request("DELETE", kind, namespace, name, body=body)
        except ApiError as error:
            if error.status == 404 or (uid and error.status == 409):  # 409: there is another one of that name.
                return False
            raise
        return True

    def create(self, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create one object; an ApiError with status 409 where it is there already."""
        query = {"dry_run": "All" if dry_run else None}
        return self._request("POST", obj["kind"], metadata(obj).get("namespace"), query=query, body=obj)

    def merge(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any],
        *,
        manager: str = MANAGER,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Change some fields of an object that is there, and nothing else of it; the object as it is then.

        :param name: with ``/status`` behind, the fields are those of its status.
        """
        query = {"field_manager": manager, "dry_run": "All" if dry_run else None}
        content_type = "application/merge-patch+json"
        return self._request("PATCH", kind, namespace, name, query=query, body=patch, content_type=content_type)

    def annotate(
        self, kind: str, name: str, namespace: str, annotations: Mapping[str, str | None], *, dry_run: bool = False
    ) -> None:
        """Set annotations (None: take away) of an object that is there."""
        patch = {"metadata": {"annotations": dict(annotations)}}
        self.merge(kind, name, namespace, patch, manager=f"{MANAGER}.state", dry_run=dry_run)

    def apply(self, obj: dict[str, Any], manager: str = MANAGER, *, dry_run: bool = False) -> dict[str, Any]:
        """Server-side apply of one object, forced on the fields that it names."""
        data = metadata(obj)
        query = {"field_manager": manager, "force_conflicts": "true", "dry_run": "All" if dry_run else None}
        content_type = "application/apply-patch+yaml"
        body = json.dumps(obj)  # As text: older client libraries make none of an object for this type.
        return self._request(
            "PATCH", obj["kind"], data.get("namespace"), data["name"], query=query, body=body, content_type=content_type
        )

    def raw(self, path: str, accept: str = "application/json", *, seconds: float | None = None) -> dict[str, Any]:
        """Any other document of the API, for example discovery; ``seconds`` to wait, where that is less than usual."""
        query: dict[str, Any] = {"header_params": {"Accept": accept}}
        query["_request_timeout"] = (TIMEOUT[0], seconds) if seconds else None
        return self._ask("GET", path, f"read {path}", query=query)

    def _create(self, wanted: dict[str, Any], dry_run: bool) -> dict[str, Any]:
        try:
            return self.apply(wanted, dry_run=dry_run)
        except ApiError as error:
            # A dry run in a namespace that would be made first answers 404: it would be created there.
            if dry_run and error.status == 404 and metadata(wanted).get("namespace"):
                return wanted
            raise

    def _take_over(self, live: dict[str, Any]) -> None:
        """Make the template ours: what a former manager wrote there, arguments for example, would stay otherwise.

        Nothing but managedFields is written, so that the apply that follows is the only change, and the only roll.
        """
        data = metadata(live)
        fields = {"metadata": {"managedFields": owned_template(live)}}
        self.merge(live["kind"], data["name"], data.get("namespace"), fields)

    def _request(
        self,
        method: str,
        kind: str,
        namespace: str | None,
        name: str | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        resource = RESOURCES[kind]
        verb = _VERBS.get(method) or ("get" if name else "list")
        scope = namespace if resource.namespaced else name if kind == "Namespace" else None
        if scope and scope == self.missing:
            if verb == "list":
                return {"items": [], "metadata": {}}
            raise ApiError(
                f"could not {verb} {kind} {name or ''} in {scope}: there is no such namespace", 404, "NotFound"
            )
        scope = namespace if resource.namespaced else None
        sent = {**(query or {}), "content_type": content_type}
        if name:
            target = f"{verb} {kind} {scope + '/' if scope else ''}{name}"
        else:
            target = f"{verb} {kind}s{f' in {namespace}' if namespace else ''}"
        rule = (kind, verb, namespace)
        found = self._ask(method, resource.path(namespace, name), target, query=sent, body=body, rule=rule)
        if verb == "list":
            for item in found.get("items") or ():  # Lists leave these out of their items.
                item.setdefault("kind", kind)
                item.setdefault("apiVersion", resource.api_version)
        return found

    def _ask(
        self,
        method: str,
        path: str,
        target: str,
        *,
        query: Mapping[str, Any],
        body: Any = None,
        rule: _Rule | None = None,
    ) -> dict[str, Any]:
        """Send one request; the document that answers it."""
        response = self._send(method, path, target, query=query, body=body, rule=rule)
        try:
            text = response.data  # The body comes only now: it may end early, or never.
        except Exception as error:
            raise _told(error, target, rule) from error
        return _document(text, target, rule[1] if rule else "get")

    def _send(
        self,
        method: str,
        path: str,
        target: str,
        *,
        query: Mapping[str, Any],
        body: Any = None,
        rule: _Rule | None = None,
    ) -> Any:
        params = {"_request_timeout": TIMEOUT, **{key: value for key, value in query.items() if value is not None}}
        try:
            return self.client.request(method, path, body=body, serialize=False, **params)
        except Exception as error:
            raise _told(error, target, rule) from error


def _document(text: bytes | str, target: str, verb: str) -> dict[str, Any]:
    """What an API server answers; anything else is an ApiError, for example a proxy's page with status 200."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    raise ApiError(
        f"could not {target}: the answer is no JSON object, and not that of an API server. Check the kubeconfig, "
        "context or host, and what lies between, such as a proxy",
        verb=verb,
    )


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of a stream; an API server ends each, and what is left at the end is cut off or somebody else's."""
    left = b""
    for chunk in response.stream(None, decode_content=False):
        *lines, left = (left + chunk).split(b"\n")
        yield from lines
    if left:
        yield left


def _told(error: Exception, target: str, rule: _Rule | None) -> ApiError:
    """The same as :func:`as_api_error`, with the verb and the rule to grant."""
    told = as_api_error(error, target)
    told.verb = rule[1] if rule else "get"
    if rule and told.forbidden and "cannot" in str(told):
        kind, verb, namespace = rule
        # Server-side apply asks for patch, and for create where the object is not there yet.
        verbs = ("create", "patch") if verb == "patch" else (verb,)
        return ApiError(told.message, told.status, told.reason, grant(kind, verbs, namespace), verb)
    return told


def as_api_error(error: Exception, target: str) -> ApiError:
    """Turn whatever the client library raises into one sentence; what is no answer of a server has status 0."""
    if isinstance(error, ApiError):
        return error
    status = getattr(error, "status", None)
    if not status:
        # urllib3 puts the connection before its words, as an address in memory or as a call, and the cause behind.
        words = getattr(error, "reason", None) or next((arg for arg in error.args[:1] if isinstance(arg, str)), error)
        cause = re.sub(r"^(<[^>]*>|\w+\(.*?\)): ", "", str(words))
        return ApiError(
            f"could not {target}: the API server does not answer ({' '.join(cause.split()).rstrip('.')}). "
            "Check the kubeconfig, context or host, and the network"
        )
    reason, message = str(getattr(error, "reason", "") or ""), ""
    try:
        answer = json.loads(getattr(error, "body", None) or "{}")
        reason, message = answer.get("reason") or reason, answer.get("message") or ""
    except (ValueError, TypeError, AttributeError):
        pass  # Not from an API server, for example a proxy's HTML page.
    if status == 401:
        return ApiError(f"could not {target}: the credentials are not accepted (expired?). Log in again", 401, reason)
    said = ": ".join(part for part in (reason, message) if part) or f"HTTP status {status}"
    return ApiError(f"could not {target}: {said}", int(status), reason)


def grant(kind: str, verbs: Sequence[str], namespace: str | None) -> str:
    """The rule that is missing, as the administrator has to write it."""
    resource = RESOURCES[kind]
    where = f"a Role in namespace {namespace}" if namespace and resource.namespaced else "a ClusterRole"
    return (
        f"Grant with {where}: apiGroups {json.dumps([resource.group])}, "
        f"resources {json.dumps([resource.plural])}, verbs {json.dumps(list(verbs))}"
    )


def _shown(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The object without what the server keeps for itself: what a diff is about."""
    hidden = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
    data = {key: value for key, value in metadata(obj).items() if key not in hidden}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": data}


def _content(obj: Mapping[str, Any]) -> str:
    return json.dumps(_shown(obj), sort_keys=True)
