# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image references and the texts in which lists of images are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Grammar of the OCI distribution specification and of the reference implementation "distribution/reference".
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_BARE_DIGEST = re.compile(r"[0-9a-f]{64}")
_REPOSITORY_LENGTH = 255


class InvalidReference(ValueError):
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
    """Read ``[registry/]repository[:tag][@digest]``; :class:`InvalidReference` where a runtime would refuse it.

    The first component is a registry when it has a dot, a colon or an upper case letter or is ``localhost``; without
    one it is ``docker.io``, and a repository of one component there lies in ``library``, as container runtimes have it.
    """
    _refuse_what_is_no_reference(text)
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidReference(f"{digest!r} is no digest", "write @sha256: and 64 lower case hexadecimal digits")
    host, path = _split_host(rest)
    repository, colon, tag = path.partition(":")
    if colon and not tag:
        raise InvalidReference("the tag is empty", "put the tag after the ':', or remove the ':'")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReference(
            f"{tag!r} is no tag", "use at most 128 letters, digits, '_', '.' and '-', with no '.' or '-' in front"
        )
    if host is not None and not _REGISTRY.fullmatch(host):
        raise InvalidReference(f"{host!r} is no registry", "write host or host:port before the first '/'")
    if not _REPOSITORY.fullmatch(repository):
        raise _no_repository(text, repository, len(rest) - len(path))
    registry = "docker.io" if host in (None, "index.docker.io") else host or ""
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    if len(repository) > _REPOSITORY_LENGTH:
        raise InvalidReference("the repository is too long", f"use at most {_REPOSITORY_LENGTH} characters")
    return Reference(registry, repository, tag, digest)


def _refuse_what_is_no_reference(text: str) -> None:
    if not text:
        raise InvalidReference("the image is empty", "write registry/repository:tag")
    if re.search(r"\s", text):
        raise InvalidReference("the image has white space in it", "remove it, or put ';' between two entries")
    scheme = re.match(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*://)+", text)
    if scheme:
        what, rest = f"the image begins with a scheme ({scheme.group()})", text.removeprefix(scheme.group())
        if not rest:
            raise InvalidReference(what, "write registry/repository:tag")
        try:
            parse_reference(rest)
        except InvalidReference as error:
            raise InvalidReference(f"{what}, and {error.what}", f"leave the scheme out, and {error.remedy}") from None
        raise InvalidReference(what, f"write the image as {rest!r}")
    if _BARE_DIGEST.fullmatch(text):
        raise InvalidReference("the image is only a digest", "write registry/repository@sha256:digest")


def _split_host(text: str) -> tuple[str | None, str]:
    first, slash, remainder = text.partition("/")
    if slash and (re.search(r"[.:]", first) or first in ("", "localhost") or first != first.lower()):
        return first, remainder
    return None, text


def _no_repository(text: str, repository: str, start: int) -> InvalidReference:
    lower, end = repository.lower(), start + len(repository)
    if _REPOSITORY.fullmatch(lower):
        return InvalidReference(
            f"the repository {repository!r} has upper case letters",
            f"write the image as {text[:start] + lower + text[end:]!r}",
        )
    return InvalidReference(
        f"{repository!r} is no repository", "write lower case letters and digits, separated by '.', '_', '-' or '/'"
    )


def split_entries(text: str) -> list[str]:
    """Split the IMAGES text into its entries, in every form that is documented for it.

    Entries are ended by ``;`` or a line break; a backslash before white space or at the end, which a shell example
    leaves in the text, is no part of an entry. White space (line breaks too) around ``=`` means nothing.
    """
    text = re.sub(r"\\(?=\s|$)", " ", text)
    text = "=".join(part.strip() for part in text.split("="))  # A pattern would take the square of a run of blanks.
    return [entry.strip() for entry in re.split(r"[;\n]", text) if entry.strip()]
