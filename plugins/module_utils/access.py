# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How registries are reached: by the modules from the options ``registry_*``, by the controller as it is told to.

The two are on different machines: each has its own files, proxies and logins, and the mirrors in common.
"""

from __future__ import annotations

import re
import ssl
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils import credentials
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import InvalidReference, parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import RegistryAccess
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Access
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    InvalidSettings,
    Problem,
    check,
    read_mapping,
)

_AUTH_FILE = "the auth file"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MIRRORS_EXAMPLE = '{"quay.io": "mirror.example.com/quay"}'
_PASSWORD = re.compile(r"://[^\s/@:]*:([^\s/@]+)@")
_PROXY_EXAMPLE = '{"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".example.com"}'


def read_access(options: Mapping[str, Any]) -> Access:
    """How registries are reached from here, from the options ``registry_*``; raises InvalidSettings."""
    mirrors, problems = read_mirrors("registry_mirrors", options.get("registry_mirrors"))
    insecure, more = read_insecure("registry_insecure", options.get("registry_insecure"))
    problems += more
    keyring, authorities = Keyring(), ""
    path = options.get("registry_auth_file") or ""
    try:
        if path:
            keyring = credentials.from_text(Path(path).read_text(encoding="utf-8"), _AUTH_FILE)
            problems += [Problem("registry_auth_file", path, p, "correct the file") for p in keyring.problems]
    except (OSError, UnicodeDecodeError):
        problems.append(Problem("registry_auth_file", path, "it can't be read", "correct the path or the permissions"))
    path = options.get("registry_ca_file") or ""
    try:
        if path:
            authorities = certificates(Path(path).read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        what, remedy = "no certificate can be read from it", "name a file with certificates in the form PEM"
        problems.append(Problem("registry_ca_file", path, what, remedy))
    if problems:
        raise InvalidSettings(problems)
    return access(mirrors, insecure, keyring, authorities)


def access(
    mirrors: Mapping[str, tuple[str, ...]],
    insecure: tuple[str, ...],
    keyring: Keyring | None = None,
    authorities: str = "",
) -> Access:
    """Of the entries of ``insecure`` those with ``http://`` in front are asked without TLS."""
    plain = {entry for entry in insecure if entry.startswith("http://")}
    return Access(
        keyring or Keyring(),
        mirrors,
        frozenset(insecure) - plain,
        frozenset(entry.removeprefix("http://") for entry in plain),
        authorities,
    )


def read_registry_access(
    options: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> tuple[RegistryAccess, list[Problem]]:
    """How the controller is to reach registries, from options or from texts, and what is wrong with them.

    :param names: how the options are called where they come from.
    """
    called = {name: (names or {}).get(name, name) for name in CONTROLLER_OPTIONS}
    given = {name: options.get(called[name]) for name in CONTROLLER_OPTIONS}
    mirrors, problems = read_mirrors(called["registry_mirrors"], given["registry_mirrors"])
    insecure, more = read_insecure(called["registry_insecure"], given["registry_insecure"])
    name = str(given["registry_ca_config_map"] or "").strip()
    problems += [*more, *(check(called["registry_ca_config_map"], name, "name") if name else ())]
    shape = {"HTTPS_PROXY": _proxy_problems, "HTTP_PROXY": _proxy_problems, "NO_PROXY": str}
    proxy, more = read_mapping(called["registry_proxy"], given["registry_proxy"], shape, _PROXY_EXAMPLE)
    return RegistryAccess(mirrors, insecure, name, {} if more else proxy), [*problems, *more]


def proxy_passwords(value: object) -> set[str]:
    """The passwords in the URLs of the option ``registry_proxy``, whatever its shape, so that no output shows them."""
    return set(_PASSWORD.findall(str(value or "")))


CONTROLLER_OPTIONS = ("registry_mirrors", "registry_insecure", "registry_ca_config_map", "registry_proxy")


def read_mirrors(option: str, value: object) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """Registry (or the beginning of a path there) -> what stands in its place, from a mapping or its text."""
    found, problems = read_mapping(option, value, {None: _mirror_problems}, _MIRRORS_EXAMPLE)
    if problems:
        return {}, problems
    mirrors = {prefix: tuple(to) if isinstance(to, list) else (to,) for prefix, to in found.items()}
    for prefix, places in mirrors.items():
        for text in (prefix, *places):
            problems += _location_problems(option, text)
    return mirrors, problems


def read_insecure(option: str, value: object) -> tuple[tuple[str, ...], list[Problem]]:
    """Registries that need not prove who they are, from a list or a text with ``;`` or ``,`` between them."""
    parts = value if isinstance(value, (list, tuple)) else re.split(r"[;,\s]+", str(value or ""))
    entries = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    problems = [p for entry in entries for p in _location_problems(option, entry.removeprefix("http://"))]
    return entries, problems


def certificates(text: str) -> str:
    """The certificates of a PEM bundle without what is written between them; ValueError where there is none."""
    found = "\n".join(_CERTIFICATE.findall(text))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (OSError, TypeError, ValueError):
        raise ValueError("no certificate in the form PEM") from None
    return found


def _location_problems(option: str, text: str) -> list[Problem]:
    try:
        if parse_reference(f"{text}/x").registry == text.partition("/")[0]:
            return []
        what, remedy = "it names no registry", "write host or host:port, and for a mirror a path if it has one"
    except InvalidReference as error:
        what, remedy = error.what, error.remedy
    return [Problem(option, text, what, remedy)]


def _mirror_problems(value: Any, path: str) -> list[tuple[str, str]]:
    places = value if isinstance(value, list) else [value]
    if places and all(isinstance(place, str) for place in places):
        return []
    return [(f"what stands in the place of {path} is no registry and no list of them", f"write {_MIRRORS_EXAMPLE}")]


def _proxy_problems(value: Any, path: str) -> list[tuple[str, str]]:
    try:
        parts = urllib.parse.urlsplit(value if isinstance(value, str) else "")
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return []
    except ValueError:
        pass
    return [(f"{path} is no URL of a proxy that is reached by http", "write http://host:port")]
