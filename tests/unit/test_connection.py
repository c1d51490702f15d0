# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection options, and the sentence for each way in which a connection fails."""

from __future__ import annotations

import ast
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from kubernetes.client import Configuration

from ansible_collections.kubecache.image_puller.plugins.doc_fragments.kubernetes import ModuleDocFragment
from ansible_collections.kubecache.image_puller.plugins.module_utils import connection, module
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError
from ansible_collections.kubecache.image_puller.plugins.module_utils.connection import (
    CONNECTION_ARGUMENTS,
    ConnectionProblem,
    open_client,
    secrets,
)
from tests.running import module_arguments

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "test", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "test", "user": {"token": "s3cret"}}],
    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    "current-context": "test",
}


class Server(ThreadingHTTPServer):
    """An HTTPS server on loopback that gives every request the same answer."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake is left to the handler, after which the connection is closed whether it succeeded or not.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.status, self.answer = 200, b"{}"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of the clients that refuse our certificate."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    directory = tmp_path_factory.mktemp("certificate")
    certificate, key = directory / "tls.crt", directory / "tls.key"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> Iterator[Server]:
    with Server(*certificate) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster that the environment names is asked, and none that an earlier test has set as the default."""
    monkeypatch.setattr(Configuration, "_default", None)
    monkeypatch.setattr(f"{get_api_client.__module__}._pool", {})
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name in AUTH_ARG_SPEC:
        monkeypatch.delenv(f"K8S_AUTH_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def problem(**options: Any) -> str:
    """The sentence that opening a client with these options ends in; it must have no trace of Python in it."""
    with pytest.raises(ConnectionProblem) as caught:
        open_client(options)
    sentence = str(caught.value)
    assert not re.search(r"Traceback|Error\(|object at|\n", sentence)
    return sentence


def test_options_are_documented_as_they_are_read() -> None:
    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert without_secrecy(CONNECTION_ARGUMENTS) == without_descriptions(documented)


def without_descriptions(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            key: without_descriptions(value) if key == "suboptions" else value
            for key, value in option.items()
            if key != "description"
        }
        for name, option in options.items()
    }


def without_secrecy(arguments: dict[str, Any]) -> dict[str, Any]:
    """An argument spec in the words of documentation, which does not say what is secret."""
    return {
        name: {
            "suboptions" if key == "options" else key: without_secrecy(value) if key == "options" else value
            for key, value in argument.items()
            if key != "no_log"
        }
        for name, argument in arguments.items()
    }


def test_options_are_those_of_kubernetes_core() -> None:
    def plain(spec: dict[str, Any]) -> dict[str, Any]:
        return {
            name: (
                option.get("type", "str"),
                option.get("aliases", []),
                option.get("elements"),
                plain(option.get("options", {})),
            )
            for name, option in spec.items()
        }

    assert plain(CONNECTION_ARGUMENTS) == plain(AUTH_ARG_SPEC)


def test_secret_options_are_marked() -> None:
    headers = CONNECTION_ARGUMENTS["proxy_headers"]["options"]
    secret = {name for name, option in (CONNECTION_ARGUMENTS | headers).items() if option.get("no_log")}
    assert secret == {"api_key", "password", "proxy_basic_auth", "basic_auth"}


def test_refused_connection_names_the_server() -> None:
    sentence = problem(host="https://127.0.0.1:1", api_key="x")
    assert sentence == (
        "127.0.0.1:1 does not answer (connection refused). Check the kubeconfig, context or host, and the network."
    )


def test_unknown_host_is_named() -> None:
    sentence = problem(host="https://no-such-host.invalid:6443", api_key="x")
    assert sentence.startswith("no-such-host.invalid:6443 does not answer (")


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LIMIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sentence = problem(host=f"https://127.0.0.1:{silent.getsockname()[1]}", api_key="x", validate_certs=False)
    assert sentence.startswith("The API server does not answer within 0.2 seconds. Check the kubeconfig")


def test_untrusted_certificate(server: Server) -> None:
    sentence = problem(host=server.url, api_key="x")
    assert sentence.startswith(
        f"The certificate of 127.0.0.1:{server.server_port} is not trusted (self-signed certificate)"
    )
    assert "ca_cert" in sentence


def test_certificate_of_another_host(server: Server, certificate: tuple[Path, Path]) -> None:
    sentence = problem(host=server.url.replace("127.0.0.1", "localhost"), api_key="x", ca_cert=str(certificate[0]))
    assert f"localhost:{server.server_port} is not trusted (Hostname mismatch" in sentence


def test_ca_file_without_certificate(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate\n")
    sentence = problem(host=server.url, api_key="x", ca_cert=str(tmp_path / "ca.crt"))
    assert sentence.startswith(f"TLS with 127.0.0.1:{server.server_port} fails (")
    assert "Check ca_cert" in sentence


@pytest.mark.parametrize("option", ["kubeconfig", "ca_cert", "client_cert", "client_key"])
def test_missing_file_names_path_and_option(option: str, tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    sentence = problem(**{"host": "https://127.0.0.1:1", option: path})
    assert sentence == f"Cannot read the file {path} that {option} names. Correct the path, or the permissions."


def test_missing_file_of_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", "/missing/config")
    assert problem(kubeconfig="").startswith("Cannot read the file /missing/config that K8S_AUTH_KUBECONFIG names.")


def test_one_of_several_kubeconfig_files_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(json.dumps(KUBECONFIG))
    assert problem(kubeconfig=f"/missing/config:{tmp_path}/config").startswith("127.0.0.1:1 does not answer")


def test_rejected_credentials(server: Server, certificate: tuple[Path, Path]) -> None:
    server.status = 401
    sentence = problem(host=server.url, api_key="expired", ca_cert=str(certificate[0]))
    assert sentence.startswith("The API server does not accept the credentials, they are wrong or have expired. Log in")


def test_no_credentials_at_all(server: Server, certificate: tuple[Path, Path]) -> None:
    server.status = 403
    server.answer = b'{"kind":"Status","message":"forbidden: User \\"system:anonymous\\" cannot get path \\"/apis\\""}'
    sentence = problem(kubeconfig=in_cluster(server, certificate, user={}))
    assert sentence.startswith("The API server got no credentials (it answers to system:anonymous).")


def in_cluster(server: Server, certificate: tuple[Path, Path], user: dict[str, Any]) -> dict[str, Any]:
    cluster = {"server": server.url, "certificate-authority": str(certificate[0])}
    return {
        **KUBECONFIG,
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
    }


def test_server_that_is_no_api_server(server: Server, certificate: tuple[Path, Path]) -> None:
    server.status, server.answer = 404, b"<html>"
    sentence = problem(host=server.url, api_key="x", ca_cert=str(certificate[0]))
    assert "404" in sentence or "Not Found" in sentence
    assert sentence.endswith("Check the kubeconfig, context or host.")


def test_no_cluster_named() -> None:
    assert problem() == (
        "No cluster is named. Set kubeconfig, or host with api_key, or the environment variable "
        "K8S_AUTH_KUBECONFIG, or log in so that ~/.kube/config is there."
    )


def test_unknown_context() -> None:
    sentence = problem(kubeconfig=KUBECONFIG, context="production")
    assert "Expected object with name production" in sentence
    assert sentence.endswith("Check the kubeconfig, context or host.")


@pytest.mark.parametrize("text", ["{[", "just text"])
def test_file_that_is_no_kubeconfig(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    assert problem(kubeconfig=str(tmp_path / "config")).startswith("The connection settings cannot be used: ")


def test_missing_library_names_interpreter_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "kubernetes_version", "")
    assert problem() == (
        f"The Python library kubernetes is missing for {sys.executable}. Install it with: {sys.executable} -m pip "
        "install 'kubernetes>=24.2', or choose another Python with ansible_python_interpreter."
    )


def test_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "kubernetes_version", "12.0.1")
    assert problem().startswith(f"The Python library kubernetes 12.0.1 of {sys.executable} is too old. Install it with")


def test_missing_collection_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "get_api_client", None)
    assert problem() == (
        "The collection kubernetes.core is missing. "
        "Install it with: ansible-galaxy collection install 'kubernetes.core:>=6.2.0,<7.0.0'"
    )


def test_client_asks_by_path(server: Server, certificate: tuple[Path, Path]) -> None:
    server.answer = b'{"kind":"APIGroupList","groups":[],"versions":["v1"],"gitVersion":"v1.36.3"}'
    client = open_client({"host": server.url, "api_key": "x", "ca_cert": str(certificate[0]), "context": ""})
    response = client.request("GET", "/api/v1/nodes", serialize=False)
    assert json.loads(response.data)["gitVersion"] == "v1.36.3"


class Module:
    """As much of an AnsibleModule as a connection needs."""

    def __init__(self, tmpdir: Path, **options: Any) -> None:
        self.params = dict.fromkeys(CONNECTION_ARGUMENTS) | options
        self.no_log_values: set[str] = set()
        self.tmpdir = str(tmpdir)
        self.told: dict[str, Any] = {}

    def fail_json(self, msg: str, **told: Any) -> NoReturn:
        self.told = told
        raise SystemExit(msg)


def test_every_module_run_asks_the_server(
    server: Server, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> None:
        monkeypatch.setattr(f"{get_api_client.__module__}._pool", {})
        (tmp_path / str(number)).mkdir()
        module = Module(tmp_path / str(number), host=server.url, api_key="x", ca_cert=str(certificate[0]))
        connection.connect(module)

    server.answer = b'{"kind":"APIGroupList","groups":[],"gitVersion":"v1.36.3"}'
    run(1)
    server.status = 401
    with pytest.raises(SystemExit, match="does not accept the credentials"):
        run(2)
    assert tempfile.gettempdir() == str(tmp_path)


def test_module_hides_the_secrets_of_a_kubeconfig_structure(tmp_path: Path) -> None:
    module = Module(tmp_path, kubeconfig=KUBECONFIG)
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:1 does not answer"):
        connection.connect(module)
    assert module.no_log_values == {"s3cret"}


@pytest.mark.parametrize(("waited", "again"), [(0.0, False), (7.0, True), (60.0, False)])
def test_a_later_slice_of_a_wait_may_be_tried_again_where_nobody_answers(
    tmp_path: Path, waited: float, again: bool
) -> None:
    """At once in the first one, since the address may be wrong, and at the end of the time."""
    slice_ = {"seconds": 5.0, "waited": waited, "unknown": {}}
    module = Module(tmp_path, kubeconfig=KUBECONFIG, wait_slice=slice_, wait_timeout=60)
    with pytest.raises(SystemExit) as failed:
        connection.connect(module)
    assert module.told == ({"wait_slice": {**slice_, "progress": str(failed.value)}} if again else {})
    refused = ApiError("forbidden", 403)
    assert connection.same_slice(module, refused) == connection.same_slice(module, RuntimeError("no")) == {}
    assert bool(connection.same_slice(module, ApiError("slow down", 429))) == again


def test_secrets_of_a_kubeconfig_structure() -> None:
    user = {"client-key-data": "a2V5", "auth-provider": {"config": {"id-token": "t", "idp-issuer-url": "https://x"}}}
    assert secrets({**KUBECONFIG, "users": [{"name": "u", "user": user}, {"user": {"token": ""}}]}) == {"a2V5", "t"}
    assert secrets("/home/user/.kube/config") == set()


def test_a_python_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "MINIMUM_PYTHON", (99, 0))
    with module_arguments({}), pytest.raises(SystemExit):
        module.make_module()
    told = json.loads(capsys.readouterr().out)["msg"]
    assert told.startswith(f"{sys.executable} is Python 3.")
    assert told.endswith("and Python 99.0 or later is needed. Choose another one with ansible_python_interpreter.")


def test_what_every_module_imports_is_read_by_the_oldest_python_that_runs_modules() -> None:
    """So that it gets as far as that sentence: dataclasses have slots only from Python 3.10 on."""
    for path in Path(module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))):
            assert not (isinstance(node, ast.keyword) and node.arg in ("slots", "kw_only")), path
