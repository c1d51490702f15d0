# SPDX-License-Identifier: GPL-3.0-or-later
"""The process in its pod: client, log, server, loop.

Environment of the controller: ``CONFIG_MAP_NAME`` (else the ConfigMap that the Deployment ``DEPLOYMENT_NAME`` takes its
environment from), ``DEPLOYMENT_NAME``; where no ConfigMap may be read, the settings themselves are taken from the
environment. Of the operator: ``WATCH_NAMESPACE``, one namespace, several with commas, or empty for all.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

import kubernetes

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Client, Cluster
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import DEPLOYMENT_NAME, PORT
from controller.loop import Controller
from controller.server import serve

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECTIONS = 10  # Five watches, two threads that ask, and a little more.
log = logging.getLogger("image-puller")


def in_cluster_client(connections: int = _CONNECTIONS) -> Client:
    """A client with the pod's own account; nothing is discovered, since every path is known.

    A connection whose other end is gone without a word ends after half a minute: a watch would wait for ever else.
    """
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_incluster_config(client_configuration=configuration)
    configuration.proxy = None  # Those of the environment are for registries; the API server is in the cluster.
    configuration.connection_pool_maxsize = connections
    configuration.socket_options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    ]
    client: Client = kubernetes.dynamic.DynamicClient(
        kubernetes.client.ApiClient(configuration), discoverer=lambda _client, _cache_file: None
    )
    return client


def run() -> None:
    """Run the controller until a signal ends the process."""
    controller = Controller(
        _cluster(_CONNECTIONS),
        namespace=_own_namespace(),
        deployment_name=os.environ.get("DEPLOYMENT_NAME") or DEPLOYMENT_NAME,
        environment=os.environ,
    )
    serve(controller, PORT)
    controller.run()


def run_operator() -> None:
    """Run the operator until a signal ends the process."""
    from controller.operator import Operator, watched

    namespaces = watched(os.environ.get("WATCH_NAMESPACE", ""))
    operator = Operator(
        _cluster(_CONNECTIONS * len(namespaces)),
        namespaces,
        own_namespace=_own_namespace(),
        identity=socket.gethostname(),
    )

    def leave(_signal: int, _frame: FrameType | None) -> None:
        operator.lease.release()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    serve(operator, PORT)
    operator.run()


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()


def _cluster(connections: int) -> Cluster:
    """The log, and the cluster in which this process is a pod."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        return Cluster(in_cluster_client(connections))
    except kubernetes.config.ConfigException as error:
        sys.exit(f"This program runs in a pod of a Kubernetes cluster: {error}")
