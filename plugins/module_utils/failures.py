# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an image can't be had: what kubelets and runtimes say, in classes, each with a remedy. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

# What the kubelet calls an image that it could not get.
PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
    "SignatureValidationFailed",
)
# The image is on the node and the container still does not run: later steps of the kubelet, after the pull.
AFTER_PULL = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff")
# Names in a message say nothing of the failure: an image may well be called "not-found" or "team/forbidden:429".
_NAMES = re.compile(r'\b(?:image|name|tag|repository) "[^"]*"|\S*/\S*')
# First match wins. The texts are those of containerd, CRI-O, registries and the kubelet.
_CLASSES = (
    ("invalid_name", r"invalidimagename|invalid reference format|couldn't parse image name"),
    ("no_platform", r"no match for platform|no matching manifest|no image found in (manifest|image index)"),
    ("no_space", r"no space left|disk quota exceeded"),
    ("rate_limit", r"toomanyrequests|too many requests|\b429\b|rate limit"),
    (
        "unauthorized",
        r"unauthorized|\b401\b|\b403\b|authorization failed|no basic auth|authentication required|forbidden"
        r"|(?<!permission )denied|errimageneverpull",
    ),
    ("unknown_host", r"no such host|server misbehaving|name resolution|dial tcp: lookup"),
    (
        "not_found",
        r"not found|\bnotfound\b|(manifest|name)[ _]unknown|not known to registry|repository .*does not exist",
    ),
    ("runtime", r"failed to (extract|unpack|apply)|unexpected (media type|commit (digest|size))|invalid tar|corrupt"),
    (
        "network",
        r"connection refused|connection reset|timed? ?out|timeout|deadline exceeded|no route to host|\beof\b"
        r"|network is unreachable|tls:|x509|http: server gave http|\b50[0-9]\b|unavailable",
    ),
    ("runtime", r"signature"),
)
# Nobody but a person can mend these; the others may pass.
PERMANENT = frozenset({"not_found", "unauthorized", "invalid_name", "no_platform", "other_digest"})
REMEDIES = {
    "not_found": "correct the tag or the repository, or push the image",
    "unauthorized": "name a pull secret that may read the image with image_pull_secrets; the secret must be in the "
    "puller's namespace",
    "unknown_host": "correct the registry's host name, or mend the nodes' name service",
    "network": "check that the nodes reach the registry",
    "rate_limit": "wait, use credentials, or a mirror",
    "no_space": "free space on the node's image file system, or cache fewer images there",
    "invalid_name": "correct the image reference",
    "no_platform": "choose an image for the nodes' architecture, or leave those nodes out with node_selector",
    "other_digest": "if it is the right one, write the lock anew with the playbook plan and "
    "image_puller_lock_update=true; else push the locked image under this tag again, and remove the other one from the "
    "node",
    "runtime": "look at the message and at the container runtime's log on the node",
    "other": "look at the message",
}
# Not told by a kubelet: the image is there, and is not the one that the lock file has.
OTHER_DIGEST = "other_digest"
# What a kubelet says that spaces its pulls: no failure.
NOT_ITS_TURN = "pull QPS exceeded"
# A registry's storage signs the addresses that it redirects to, and kubelets quote them in full.
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s\"']+@"), r"\1...@"),
    (re.compile(r"(\bhttps?://[^\s\"'?]+\?)[^\s\"']+"), r"\1..."),
    (re.compile(r"\b(Bearer|Basic) [A-Za-z0-9+/=._~-]{16,}", re.IGNORECASE), r"\1 ..."),
)


@functools.lru_cache(maxsize=1024)
def classify(reason: str, message: str) -> str:
    """The class of a failed pull, from the kubelet's reason and message; ``other`` for what was never seen."""
    text = _NAMES.sub(" ", f"{reason} {message}".lower())
    return next((name for name, pattern in _CLASSES if re.search(pattern, text)), "other")


@functools.lru_cache(maxsize=1024)
def redact(text: str) -> str:
    """The text without user, password and query of the addresses in it, and without the value of a bearer token."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def pull_failure(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Class and message of a container status whose image can't be pulled; None for any other."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    if reason not in PULL_REASONS or NOT_ITS_TURN in message:
        return None
    return classify(reason, message), redact(message or reason)
