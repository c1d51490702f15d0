# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection of a module: the options of kubernetes.core, and a client made from them by kubernetes.core.

The options are documented in plugins/doc_fragments/kubernetes.py; a test compares the two.
"""

from __future__ import annotations

import os
import re
import signal
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Client, as_api_error

# Both are told in one sentence by _missing_requirement().
try:
    from kubernetes import __version__ as kubernetes_version
except ImportError:
    kubernetes_version = ""
try:
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
except ImportError:
    get_api_client = None

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

MINIMUM_KUBERNETES = (24, 2)  # Of the Python client: the first one with server-side apply in its dynamic client.
LIMIT = 30  # Seconds for reading the configuration, a credential plugin and the first requests together.

CONNECTION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "kubeconfig": {"type": "raw"},
    "context": {"type": "str"},
    "host": {"type": "str"},
    "api_key": {"type": "str", "no_log": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "validate_certs": {"type": "bool", "aliases": ["verify_ssl"]},
    "ca_cert": {"type": "path", "aliases": ["ssl_ca_cert"]},
    "client_cert": {"type": "path", "aliases": ["cert_file"]},
    "client_key": {"type": "path", "aliases": ["key_file"], "no_log": False},
    "proxy": {"type": "str"},
    "no_proxy": {"type": "str"},
    "proxy_headers": {
        "type": "dict",
        "options": {
            "proxy_basic_auth": {"type": "str", "no_log": True},
            "basic_auth": {"type": "str", "no_log": True},
            "user_agent": {"type": "str"},
        },
    },
    "persist_config": {"type": "bool"},
    "impersonate_user": {"type": "str"},
    "impersonate_groups": {"type": "list", "elements": "str"},
}
# The keys of a kubeconfig whose values are secret.
_SECRETS = {"access-token", "client-key-data", "client-secret", "id-token", "password", "refresh-token", "token"}
_CHECK = "Check the kubeconfig, context or host"


class ConnectionProblem(Exception):
    """No client could be made; the text says why, and what to do. ``transient``: that may pass by itself."""

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def connect(module: AnsibleModule) -> Client:
    """A client for the cluster that the module's options name, or the environment, or the default kubeconfig.

    The API server has answered when this returns. Whatever prevents that fails the module.
    """
    # Ansible hides what no_log options hold; a kubeconfig given as a structure is none of them.
    module.no_log_values.update(secrets(module.params["kubeconfig"]))
    # The libraries keep keys and, under a name that anybody can guess, what they discovered in temporary files. In the
    # module's own directory these are safe, and gone at the end: each run asks the API server anew.
    before, tempfile.tempdir = tempfile.tempdir, module.tmpdir
    try:
        return open_client({name: module.params[name] for name in CONNECTION_ARGUMENTS})
    except ConnectionProblem as problem:
        module.fail_json(msg=str(problem), **same_slice(module, problem))
        raise  # Never reached: fail_json ends the process.
    finally:
        tempfile.tempdir = before


def open_client(options: Mapping[str, Any]) -> Client:
    """The client for connection options, of which None and "" (an empty survey answer) are unset.

    Raises ConnectionProblem.
    """
    given = {name: value for name, value in options.items() if value not in (None, "")}
    try:
        if problem := _missing_requirement() or _missing_file(given):
            raise ConnectionProblem(problem)
        with _time_limit():
            client: Client = get_api_client(**given).client
    except ConnectionProblem:
        raise
    except Exception as error:  # The libraries pass on whatever the files, plugins and sockets below them raise.
        raise ConnectionProblem(explain(error), as_api_error(error, "connect").transient) from error
    return client


def same_slice(module: AnsibleModule, error: Exception) -> dict[str, Any]:
    """What a module that fails returns besides: where that may pass, and it is a later slice of a wait, that slice."""
    slice_ = module.params.get("wait_slice")
    if not getattr(error, "transient", False) or not slice_ or not 0 < slice_["waited"] < module.params["wait_timeout"]:
        return {}
    return {"wait_slice": {**slice_, "progress": str(error)}}


def secrets(kubeconfig: object) -> set[str]:
    """The secret values in a kubeconfig that was given as a structure."""
    if isinstance(kubeconfig, list):
        return {value for item in kubeconfig for value in secrets(item)}
    if not isinstance(kubeconfig, dict):
        return set()
    own = {value for key, value in kubeconfig.items() if key in _SECRETS and value and isinstance(value, str)}
    return own.union(*map(secrets, kubeconfig.values()))


def explain(error: Exception) -> str:
    """What making a client raised, in a sentence that says what to do about it."""
    chain: list[BaseException] = [error]
    while below := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(below)
    status = getattr(error, "status", None)
    if status == 401:
        return (
            "The API server does not accept the credentials, they are wrong or have expired. Log in again, "
            "or correct the kubeconfig, api_key, client_cert or username and password."
        )
    if status == 403 and "system:anonymous" in str(error):
        return (
            "The API server got no credentials (it answers to system:anonymous). Name them in the kubeconfig "
            "(does its credential plugin run here?) or with api_key or client_cert."
        )
    if status:
        return f"{as_api_error(error, 'ask the API server what it serves')}. {_CHECK}."
    pool = next((found for link in chain if (found := getattr(link, "pool", None))), None)
    server = f"{pool.host}:{pool.port}" if pool else "the API server"
    root = chain[-1]
    if isinstance(root, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {server} is not trusted ({root.verify_message}). Name the certificate of its "
            "authority with ca_cert or in the kubeconfig, or correct the host."
        )
    if isinstance(root, ssl.SSLError):
        return f"TLS with {server} fails ({root.reason or root}). Check ca_cert, client_cert, client_key and the host."
    if pool and isinstance(root, OSError):
        return f"{server} does not answer ({(root.strerror or str(root)).lower()}). {_CHECK}, and the network."
    if "No configuration found" in str(error):
        return (
            "No cluster is named. Set kubeconfig, or host with api_key, or the environment variable "
            "K8S_AUTH_KUBECONFIG, or log in so that ~/.kube/config is there."
        )
    return f"The connection settings cannot be used: {' '.join(str(error).split()).rstrip('.')}. {_CHECK}."


def _missing_requirement() -> str:
    """The sentence for a library or collection that is not there, or too old."""
    minimum = ".".join(map(str, MINIMUM_KUBERNETES))
    remedy = (
        f"Install it with: {sys.executable} -m pip install 'kubernetes>={minimum}', "
        "or choose another Python with ansible_python_interpreter."
    )
    if not kubernetes_version:
        return f"The Python library kubernetes is missing for {sys.executable}. {remedy}"
    if tuple(map(int, re.findall(r"\d+", kubernetes_version)[:2])) < MINIMUM_KUBERNETES:
        return f"The Python library kubernetes {kubernetes_version} of {sys.executable} is too old. {remedy}"
    if get_api_client is None:
        return (
            "The collection kubernetes.core is missing. "
            "Install it with: ansible-galaxy collection install 'kubernetes.core:>=6.2.0,<7.0.0'"
        )
    return ""


def _missing_file(given: Mapping[str, Any]) -> str:
    """The sentence for a file that an option or its environment variable names and that cannot be read."""
    for option in ("kubeconfig", "ca_cert", "client_cert", "client_key"):
        variables = [f"K8S_AUTH_{name.upper()}" for name in (option, *CONNECTION_ARGUMENTS[option].get("aliases", ()))]
        sources = [(option, given.get(option)), *((variable, os.environ.get(variable)) for variable in variables)]
        name, value = next((source for source in sources if source[1]), (option, None))
        if not isinstance(value, str):
            continue
        # As for kubectl, a kubeconfig may be several files of which some are missing.
        paths = value.split(os.pathsep) if option == "kubeconfig" else [value]
        if not any(os.access(Path(path).expanduser(), os.R_OK) for path in paths):
            return f"Cannot read the file {value} that {name} names. Correct the path, or the permissions."
    return ""


@contextmanager
def _time_limit() -> Iterator[None]:
    """Give up when nobody answers: the client's first requests have no limit, and are tried four times."""

    def stop(*_: object) -> None:
        late = f"The API server does not answer within {LIMIT} seconds. {_CHECK}, and the network."
        raise ConnectionProblem(late, transient=True)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT, 1)  # Again after a second: a library may swallow the first one.
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
