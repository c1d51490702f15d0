# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the known Go controller, which can't be had here: it does what that is known to do, and nothing else.

Settings from its environment. On start, every CACHING_INTERVAL_HOURS, and on SIGTERM it deletes its DaemonSet in the
foreground and waits until it is gone; then, but not on SIGTERM, it makes it again, owned by its Deployment. Entries of
IMAGES that are malformed vanish, the last of two with one name counts. Any error of the API ends it.

It runs in a pod, of the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import signal
import ssl
import sys
import time
from typing import Any

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
LABELS = {"test": "daemonset-test", "app.kubernetes.io/name": "image-puller"}


def say(text: str) -> None:
    """One line of its log."""
    print(text, flush=True)


def ask(method: str, kind: str, name: str = "", body: Any = None) -> dict[str, Any] | None:
    """One request; None for 404, and the end of the process for any other error."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    connection = http.client.HTTPSConnection(host, port, context=trust, timeout=30)
    path = f"/apis/apps/v1/namespaces/{os.environ['NAMESPACE']}/{kind}" + (f"/{name}" if name else "")
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    told: dict[str, Any] = json.loads(answer.read())
    if answer.status == 404:
        return None
    if answer.status >= 300:
        say(f"fatal: {told.get('message')}")
        sys.exit(1)
    return told


def images() -> dict[str, str]:
    """The entries of IMAGES that it understands."""
    entries = [entry.strip() for entry in os.environ["IMAGES"].strip().split(";")]
    pairs = [entry.split("=") for entry in entries if entry]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def container(name: str, image: str, **more: Any) -> dict[str, Any]:
    """A container as all of its containers are."""
    amounts = {"requests": "REQUEST", "limits": "LIMIT"}
    resources = {
        which: {"memory": os.environ[f"CACHING_MEMORY_{key}"], "cpu": os.environ[f"CACHING_CPU_{key}"]}
        for which, key in amounts.items()
    }
    mounts = [{"name": "kip", "mountPath": "/kip"}]
    made = {"name": name, "image": image, "imagePullPolicy": "Always", "volumeMounts": mounts, "resources": resources}
    return {**made, **more}


def daemonset() -> dict[str, Any]:
    """The DaemonSet that it makes."""
    deployment = ask("GET", "deployments", os.environ["DEPLOYMENT_NAME"])
    if deployment is None:
        say("fatal: there is no Deployment")
        sys.exit(1)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", **_named(deployment)}
    copy = {"command": ["/bin/sh"], "args": ["-c", "cp /bin/sleep /kip/sleep"]}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": json.loads(os.environ.get("NODE_SELECTOR") or "{}"),
        "affinity": json.loads(os.environ.get("AFFINITY") or "{}"),
        "tolerations": json.loads(os.environ.get("TOLERATIONS") or "[]"),
        "imagePullSecrets": [{"name": n} for n in os.environ.get("IMAGE_PULL_SECRETS", "").split(";") if n],
        "initContainers": [container("copy-sleep", os.environ["KIP_IMAGE"], **copy)],
        "containers": [container(n, i, command=["/kip/sleep"], args=["720h"]) for n, i in images().items()],
        "volumes": [{"name": "kip", "emptyDir": {"sizeLimit": "50Mi"}}],
    }
    annotations = json.loads(os.environ.get("DAEMONSET_ANNOTATIONS") or "{}")
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": os.environ["DAEMONSET_NAME"], "annotations": annotations, "ownerReferences": [owner]},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"name": "test-po", "labels": LABELS}, "spec": pod},
        },
    }


def _named(obj: dict[str, Any]) -> dict[str, str]:
    return {key: obj["metadata"][key] for key in ("name", "uid")}


def delete() -> None:
    """Delete the DaemonSet if it is there, and wait until it and its pods are gone."""
    name = os.environ["DAEMONSET_NAME"]
    if ask("GET", "daemonsets", name) is None:
        return
    say("deleting the DaemonSet")
    ask("DELETE", "daemonsets", name, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"})
    while ask("GET", "daemonsets", name):
        time.sleep(0.2)


def stop(*_: object) -> None:
    """What SIGTERM does."""
    delete()
    sys.exit(0)


def main() -> None:
    """Run until a signal or an error ends it."""
    signal.signal(signal.SIGTERM, stop)
    while True:
        delete()
        ask("POST", "daemonsets", body=daemonset())
        say("created the DaemonSet")
        time.sleep(int(os.environ["CACHING_INTERVAL_HOURS"]) * 3600)


if __name__ == "__main__":
    main()
