# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which login belongs to which image: pull secrets and auth files, matched as the kubelet matches them.

Nothing here ever shows a password: what is printed of a login is the name of the secret or file that it came from.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.images import Reference

_DATA = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
_DOCKER_HUB = "index.docker.io"


@dataclass(frozen=True)
class Login:
    """One way to log in; ``source`` says where it is written, and is all of it that may be shown."""

    source: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of the header ``Authorization`` for Basic authentication."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Keyring:
    """Logins by the registry (and the beginning of the path) that they are for, in the order in which they are tried.

    ``problems`` are sentences about what could not be used.
    """

    entries: tuple[tuple[str, Login], ...] = ()
    problems: tuple[str, ...] = ()

    def __add__(self, other: Keyring) -> Keyring:
        return Keyring(self.entries + other.entries, self.problems + other.problems)

    def logins(self, reference: Reference) -> list[Login]:
        """The logins for an image, those of the most specific keys first."""
        keys = sorted({key for key, _login in self.entries if _fits(key, reference)}, reverse=True)
        return [login for wanted in keys for key, login in self.entries if key == wanted]

    @property
    def registries(self) -> list[str]:
        """What the logins are for: registries, and the beginnings of paths there."""
        return sorted({key for key, _login in self.entries})


def from_secret(secret: Mapping[str, Any]) -> Keyring:
    """The logins of a pull secret, as the API server returns it."""
    name = f"pull secret {secret['metadata']['name']}"
    kind = secret.get("type")
    if kind not in _DATA:
        kinds = " or ".join(_DATA)
        problem = f"{name} has the type {kind}, with which no node can pull. Remedy: make one of type {kinds}"
        return Keyring(problems=(problem,))
    try:
        text = base64.b64decode((secret.get("data") or {}).get(_DATA[kind], ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    return from_text(text, name)


def from_text(text: str, source: str) -> Keyring:
    """The logins of a Docker or Podman configuration (``{"auths": {...}}``, or the older form without ``auths``)."""
    try:
        content = json.loads(text)
        auths = content.get("auths", {} if {"credHelpers", "credsStore"} & content.keys() else content)
        items = list(auths.items())
    except (ValueError, AttributeError, RecursionError):
        return Keyring(problems=(f"{source} is no Docker configuration in JSON. Remedy: write it anew",))
    found, problems = [], []
    for key, entry in items:
        login = _login(entry, source)
        if login:
            found.append((_normal(key), login))
        else:
            problems.append(f"{source} has no usable login for {str(key)[:100]!r}. Remedy: write its entry anew")
    if helpers := sorted({"credHelpers", "credsStore"} & content.keys()):
        problems.append(f"{source} names programs that keep logins ({', '.join(helpers)}); they are not asked")
    return Keyring(tuple(found), tuple(problems))


def _login(entry: Any, source: str) -> Login | None:
    try:
        username, password = entry.get("username") or "", entry.get("password") or ""
        if entry.get("auth"):
            username, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            if not colon:
                return None
        identity, token = entry.get("identitytoken") or "", entry.get("registrytoken") or ""
        values = (username, password.rstrip("\0"), identity, token)
    except (AttributeError, TypeError, ValueError):
        return None
    return Login(source, *values) if any(values[1:]) and all(isinstance(value, str) for value in values) else None


def _normal(key: str) -> str:
    """A key without scheme, without the version of the API, and without a ``/`` at the end."""
    host, slash, path = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
    for version in ("v1", "v2"):
        if path == version or path.startswith(f"{version}/"):
            path = path.removeprefix(version).removeprefix("/")
    return (host + slash + path).rstrip("/")


def _fits(key: str, reference: Reference) -> bool:
    """The kubelet's rule: as many parts of the host, each of which may be a pattern; the same port; the path begins."""
    host, _slash, path = key.partition("/")
    hosts = {reference.registry} | ({_DOCKER_HUB} if reference.registry == "docker.io" else set())
    return reference.repository.startswith(path) and any(_same_host(host, target) for target in hosts)


def _same_host(pattern: str, host: str) -> bool:
    name, _colon, port = pattern.partition(":")
    target, _colon, target_port = host.partition(":")
    parts, targets = name.split("."), target.split(".")
    if port != target_port or len(parts) != len(targets):
        return False
    return all(fnmatch.fnmatchcase(one, part) for part, one in zip(parts, targets, strict=True))
