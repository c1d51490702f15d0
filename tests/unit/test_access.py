# SPDX-License-Identifier: GPL-3.0-or-later
"""How the controller is told to reach registries: from options or a resource into its pod, and back out of it there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import openshift
from ansible_collections.kubecache.image_puller.plugins.module_utils.access import (
    certificates,
    proxy_passwords,
    read_registry_access,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import (
    AUTHORITIES_DIRECTORY,
    Installation,
    RegistryAccess,
    controller,
)
from controller.asker import access_of
from tests.unit import objects
from tests.unit.registry_server import make_certificate

GIVEN: dict[str, Any] = {
    "registry_mirrors": {"quay.io": "m.example.com/quay", "docker.io": ["a.example.com", "b.example.com:5000"]},
    "registry_insecure": ["m.example.com", "http://10.0.0.1:5000"],
    "registry_ca_config_map": "authorities",
    "registry_proxy": {"HTTPS_PROXY": "http://user:word@proxy.example.com:3128", "NO_PROXY": ".internal"},
}
READ = RegistryAccess(
    {"quay.io": ("m.example.com/quay",), "docker.io": ("a.example.com", "b.example.com:5000")},
    ("m.example.com", "http://10.0.0.1:5000"),
    "authorities",
    GIVEN["registry_proxy"],
)


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        {**GIVEN, **{name: json.dumps(GIVEN[name]) for name in ("registry_mirrors", "registry_proxy")}},
        {**GIVEN, "registry_insecure": "m.example.com; http://10.0.0.1:5000;"},
        {**GIVEN, "registry_proxy": "HTTPS_PROXY: http://user:word@proxy.example.com:3128\nNO_PROXY: .internal"},
    ],
)
def test_structures_and_texts_say_the_same(given: dict[str, Any]) -> None:
    assert read_registry_access(given) == (READ, [])


@pytest.mark.parametrize("unset", ["", None])
def test_what_is_unset_says_nothing(unset: Any) -> None:
    assert read_registry_access(dict.fromkeys(GIVEN, unset)) == (RegistryAccess(), [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"registry_mirrors": ["quay.io"]}, "registry_mirrors '[\"quay.io\"]': it is a JSON list, not a JSON object. "),
        ({"registry_mirrors": {"quay.io": []}}, "what stands in the place of quay.io is no registry and no list of "),
        ({"registry_mirrors": {"team": "m.example.com"}}, "registry_mirrors 'team': it names no registry. "),
        ({"registry_insecure": "https://r.example.com"}, "registry_insecure 'https://r.example.com': "),
        ({"registry_ca_config_map": "My CA"}, "registry_ca_config_map 'My CA': it is no name of a Kubernetes object"),
        ({"registry_proxy": "http://proxy.example.com"}, "it is a text, not a JSON object"),
        ({"registry_proxy": {"https": "http://p:1"}}, "the field https is unknown"),
        ({"registry_proxy": {"HTTPS_PROXY": "https://p:1"}}, "HTTPS_PROXY is no URL of a proxy that is reached by "),
        ({"registry_proxy": {"HTTP_PROXY": "http://p:99999"}}, "HTTP_PROXY is no URL of a proxy"),
        ({"registry_proxy": {"NO_PROXY": ["a"]}}, "NO_PROXY is a JSON list, not a text"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(given: dict[str, Any], said: str) -> None:
    _read, problems = read_registry_access(given)
    text = " ".join(map(str, problems))
    assert said in text
    assert "Remedy: " in text


def pod_of(registries: RegistryAccess, make: Any = controller) -> dict[str, Any]:
    made = make(Installation(registries=registries), objects.settings(namespace="puller"))
    (deployment,) = [obj for obj in made if obj["kind"] == "Deployment"]
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("make", [controller, openshift.controller])
def test_the_pod_is_told_and_understands_the_same(make: Any) -> None:
    pod = pod_of(READ, make)
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["HTTPS_PROXY"] == "http://user:word@proxy.example.com:3128"
    assert environment["NO_PROXY"] == ".internal"
    assert environment.pop("REGISTRY_AUTHORITIES") == AUTHORITIES_DIRECTORY
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], AUTHORITIES_DIRECTORY, True)
    assert volume["configMap"] == {"name": "authorities", "optional": True}
    used, problem = access_of(environment)
    assert problem == ""
    assert used.mirrors == READ.mirrors
    assert used.insecure == {"m.example.com"}
    assert used.plain == {"10.0.0.1:5000"}


@pytest.mark.parametrize("make", [controller, openshift.controller])
def test_a_pod_that_is_told_nothing_has_nothing_more(make: Any) -> None:
    pod = pod_of(RegistryAccess(), make)
    assert "volumes" not in pod
    assert {each["name"] for each in pod["containers"][0]["env"]} == {"DEPLOYMENT_NAME", "CONFIG_MAP_NAME"}


def test_of_a_bundle_the_certificates_are_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    pem = make_certificate(tmp_path)[0].read_text().strip()
    assert certificates(f"# Zertifizierungsstelle für alle\n{pem}\nand another\n{pem}\n") == f"{pem}\n{pem}"
    damaged = f"{pem[:100]}ä{pem[101:]}"
    for text in ("", "no certificate", pem.replace("CERTIFICATE", "PRIVATE KEY"), damaged):
        with pytest.raises(ValueError, match="no certificate"):
            certificates(text)


@pytest.mark.parametrize(
    ("given", "passwords"),
    [
        (GIVEN["registry_proxy"], {"word"}),
        (json.dumps(GIVEN["registry_proxy"]), {"word"}),
        ("HTTPS_PROXY: http://user:word@proxy.example.com:3128", {"word"}),
        ({"HTTPS_PROXY": "http://a:one@p:1", "HTTP_PROXY": "http://b:two@p:1"}, {"one", "two"}),
        ({"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".internal"}, set()),
        (None, set()),
    ],
)
def test_passwords_of_proxies_are_known_before_anything_is_printed(given: object, passwords: set[str]) -> None:
    assert proxy_passwords(given) == passwords
