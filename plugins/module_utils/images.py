# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image references and the texts in which lists of images are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Grammar of the OCI distribution specification and of the reference implementation "distribution/reference".
_DOMAIN = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
DOMAIN = re.compile(rf"(?:{_DOMAIN}|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY_LENGTH = 255


class ReferenceError(ValueError):
    """An image reference that no container runtime takes: what is wrong, and what to write instead."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class Reference:
    """The parts of an image reference; ``tag`` and ``digest`` are empty where they are not written."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """The full form that runtimes report: with registry, and with the tag ``latest`` where nothing is written."""
        tag = self.tag or ("" if self.digest else "latest")
        return f"{self.registry}/{self.repository}{':' + tag if tag else ''}{'@' + self.digest if self.digest else ''}"


def parse_reference(text: str) -> Reference:
    """Read ``[registry/]repository[:tag][@digest]`` and raise :class:`ReferenceError` where a runtime would refuse it.

    The first component is a registry when it has a dot, a colon or an upper case letter or is ``localhost``; without
    one it is ``docker.io``, and a repository of one component there lies in ``library``, as container runtimes have it.
    """
    if not text:
        raise ReferenceError("the image is empty", "write registry/repository:tag")
    if re.search(r"\s", text):
        raise ReferenceError("an image has no white space", "separate entries by ';' and remove the white space")
    scheme = re.match(r"[a-zA-Z]+://", text)
    if scheme:
        raise ReferenceError(
            f"an image has no scheme ({scheme.group()})", f"write {text[scheme.end() :] or 'registry/repository:tag'}"
        )
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ReferenceError(f"{digest or 'an empty text'} is no digest", "write @sha256: and 64 hexadecimal digits")
    if digest.startswith("sha256:") and not _SHA256.fullmatch(digest):
        raise ReferenceError(f"{digest} is no digest", "write @sha256: and 64 lower case hexadecimal digits")
    registry, repository, tag = _split(rest)
    if tag is not None and not TAG.fullmatch(tag):
        if not tag:
            raise ReferenceError(
                "the tag after ':' is empty", f"write {rest}latest, the tag that you mean, or no ':' at all"
            )
        raise ReferenceError(
            f"{tag} is no tag", "a tag has letters, digits, '_', '.', '-', at most 128, and starts with no '.' or '-'"
        )
    if not DOMAIN.fullmatch(registry):
        raise ReferenceError(f"{registry or 'an empty text'} is no registry", "write host or host:port before the '/'")
    if not REPOSITORY.fullmatch(repository):
        if repository != repository.lower() and REPOSITORY.fullmatch(repository.lower()):
            raise ReferenceError(
                "the repository has upper case letters", f"write {text.replace(repository, repository.lower(), 1)}"
            )
        raise ReferenceError(
            f"{repository or 'an empty text'} is no repository",
            "write lower case letters and digits, separated by '.', '_', '-' or '/'",
        )
    if len(repository) > _REPOSITORY_LENGTH:
        raise ReferenceError("the repository is too long", f"use at most {_REPOSITORY_LENGTH} characters")
    return Reference(registry, repository, tag or "", digest)


def _split(text: str) -> tuple[str, str, str | None]:
    first, slash, remainder = text.partition("/")
    if slash and (re.search(r"[.:A-Z]", first) or first == "localhost" or not first):
        registry, path = first, remainder
    else:
        registry, path = "docker.io", text
    repository, colon, tag = path.partition(":")
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, tag if colon else None


def split_entries(text: str) -> list[str]:
    """Split the IMAGES text into its entries, in every form that is documented for it.

    Entries are ended by ``;`` or a line break; a backslash before white space or at the end, which a shell example
    leaves in the text, is no part of an entry. White space (line breaks too) around ``=`` means nothing.
    """
    text = re.sub(r"\\(?=\s|$)", " ", text)
    text = re.sub(r"\s*=\s*", "=", text)
    return [entry.strip() for entry in re.split(r"[;\n]", text) if entry.strip()]
