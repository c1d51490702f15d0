# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that talks to an image registry (OCI distribution specification), and only ever reads.

It uses the standard library's ``http.client``: no further dependency for modules and controller, and redirects, sizes,
deadlines and credentials are all decided here, where a registry must not be trusted. Every failure is a
:class:`RegistryError` with one sentence, which never repeats what a registry or a login said.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import http.client
import json
import queue
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring, Login
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import Reference, parse_reference

PARALLEL = 8  # Requests at a time.
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 15.0  # For one whole answer, however slowly it drips.
TOTAL_SECONDS = 20.0  # For all images together.
LARGEST_ANSWER = 4 << 20  # The specification asks registries to take manifests of 4 MiB.
MOST_REDIRECTS = 5
_REST_SECONDS = 30.0  # A host that did not answer is left alone for so long.
# What another login may get past. A registry may say "not found" to whoever must not know of an image, and has limits
# for each user, and for each address of those who are none.
_TRY_ANOTHER = ("unauthorized", "not_found", "rate_limit")

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join((*_INDEXES, *_MANIFESTS))
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_PLATFORM = re.compile(r"[a-z0-9._-]{1,30}/[a-z0-9._-]{1,30}")
_CHALLENGE = re.compile(r'([a-zA-Z]+)="([^"]*)"')
_API_HOSTS = {"docker.io": "registry-1.docker.io"}
_REDIRECTS = (301, 302, 303, 307, 308)
_USER_AGENT = "kubecache-image-puller"

Result = TypeVar("Result")
_Resting: TypeAlias = str | tuple[str, Login | None]  # A host, or one login (None: without) to it.


class RegistryError(Exception):
    """A registry gave no usable answer. ``class_`` is one of those of ``health``, or untrusted.

    ``retry_after``: seconds for which the registry wants to be left alone, None where it did not say.
    """

    def __init__(self, class_: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.class_ = class_
        self.retry_after = retry_after


@dataclass(frozen=True)
class Layer:
    """A blob that a node fetches; ``size`` in bytes, compressed."""

    digest: str
    size: int


@dataclass(frozen=True)
class Facts:
    """What a registry says of one image.

    ``digest`` is what the reference stands for (an index where there is one); ``platforms`` as ``os/architecture``,
    empty where the image does not say; ``layers`` for each platform that was asked for and is there (under "" where
    the image does not say); ``source`` the host that answered; ``login`` where the login was written that it took, ""
    for none; ``private`` whether it is refused without, None where that is unknown; ``manifests``: platform -> the
    digest of the image for it.
    """

    digest: str
    platforms: tuple[str, ...]
    layers: Mapping[str, tuple[Layer, ...]]
    source: str
    login: str = ""
    private: bool | None = False
    manifests: Mapping[str, str] = field(default_factory=dict)

    def layers_for(self, platform: str) -> tuple[Layer, ...] | None:
        """The layers that a node of this platform fetches; None where the image does not exist for it."""
        return self.layers.get("" if not self.platforms else platform)


@dataclass(frozen=True)
class Access:
    """How registries are reached from here, which may differ from how the nodes reach them.

    ``mirrors``: ``registry[/path]`` -> the same elsewhere, asked first, in this order; ``insecure``: hosts (with port)
    whose certificate need not be trusted, and ``plain`` those that are asked without TLS; ``authorities``:
    certificates to trust besides the system's, in the form PEM. Proxies are those of the environment (HTTPS_PROXY,
    HTTP_PROXY, NO_PROXY).
    """

    keyring: Keyring = field(default_factory=Keyring)
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    insecure: frozenset[str] = frozenset()
    plain: frozenset[str] = frozenset()
    authorities: str = ""


@dataclass(frozen=True)
class _Answer:
    """One HTTP response: ``url`` is where it came from in the end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str


@dataclass(frozen=True)
class _Place:
    """Where an image is asked for: the registry itself, or a mirror of it; ``private`` as in :class:`Facts`."""

    reference: Reference
    login: Login | None = None
    private: bool | None = False

    @property
    def host(self) -> str:
        return _API_HOSTS.get(self.reference.registry, self.reference.registry)

    @property
    def version(self) -> str:
        return self.reference.digest or self.reference.tag or "latest"


class Registries:
    """Asks image registries. Threads may share one: what is remembered (tokens, hosts that rest) serves them all."""

    def __init__(self, access: Access | None = None) -> None:
        self.access = access or Access()
        self._connections = threading.local()
        self._tokens: dict[tuple[str, str, Login | None], tuple[str, float]] = {}
        self._resting: dict[_Resting, tuple[RegistryError, float]] = {}

    @functools.cached_property
    def _trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.access.authorities:
            context.load_verify_locations(cadata=self.access.authorities)
        return context

    @functools.cached_property
    def _blind(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    # What is asked

    def digest(self, image: str, known: Collection[str] | None = None) -> str:
        """What the reference stands for now, at the cost of one HEAD where the registry answers it.

        :param known: digests that are believed at a word; of any other the manifest itself is asked for, and has to
            have it. None: all are.
        """
        return self._somewhere(image, lambda place: self._digest(place, known))

    def facts(self, image: str, platforms: Collection[str]) -> Facts:
        """Digest, platforms, and the layers for those of ``platforms`` (``os/architecture``) that there are."""
        return self._somewhere(image, lambda place: self._facts(place, platforms))

    def facts_of_all(
        self, images: Iterable[str], platforms: Collection[str], *, seconds: float = TOTAL_SECONDS
    ) -> dict[str, Facts | RegistryError]:
        """:meth:`facts` for each image, a few at a time; what has not answered after so many seconds is an error."""
        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        found: dict[str, Facts | RegistryError] = {}
        wanted = list(dict.fromkeys(images))
        unexpected: list[Exception] = []

        def work() -> None:
            with contextlib.closing(self):
                while time.monotonic() < end and not jobs.empty():
                    with contextlib.suppress(queue.Empty):
                        take(jobs.get_nowait())

        def take(image: str) -> None:
            try:
                found[image] = self.facts(image, platforms)
            except RegistryError as error:
                found[image] = error
            except Exception as error:  # A mistake of ours: raised where it is seen, not lost in a thread.
                unexpected.append(error)

        for image in wanted:
            jobs.put(image)
        end = time.monotonic() + seconds
        # Daemons, because nothing can end the look-up of a name, and nobody should wait for one at the end.
        threads = [threading.Thread(target=work, daemon=True) for _number in range(min(PARALLEL, len(wanted)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if unexpected:
            raise unexpected[0]
        late = f"gave no answer within the {seconds:.0f} s that all images have"
        return {i: found.get(i) or RegistryError("network", f"{parse_reference(i).registry} {late}") for i in wanted}

    def close(self) -> None:
        """Close this thread's connections."""
        for connection in self._open().values():
            connection.close()
        self._open().clear()

    # Where it is asked

    def _somewhere(self, image: str, ask: Callable[[_Place], Result]) -> Result:
        """Ask the mirrors, then the registry itself; the error is the registry's own, or the last one."""
        reference = parse_reference(image)
        places = [*self._mirrored(reference), reference]
        for number, place in enumerate(places, 1):
            try:
                return self._with_logins(place, reference, ask)
            except RegistryError:
                if number == len(places):
                    raise
        raise AssertionError("the registry itself is always asked")

    def _mirrored(self, reference: Reference) -> Iterator[Reference]:
        name = f"{reference.registry}/{reference.repository}"
        for prefix in sorted(self.access.mirrors, key=len, reverse=True):
            if name == prefix or name.startswith(f"{prefix}/"):
                for mirror in self.access.mirrors[prefix]:
                    host, _slash, repository = (mirror + name.removeprefix(prefix)).partition("/")
                    yield replace(reference, registry=host, repository=repository)
                return

    def _with_logins(self, place: Reference, image: Reference, ask: Callable[[_Place], Result]) -> Result:
        """Ask without a login, then, while that is refused, with each one that fits: so private images are known.

        A mirror gets those of the image, too, as container runtimes have it: somebody named it to stand in its place.
        """
        logins = list(dict.fromkeys([*self.access.keyring.logins(place), *self.access.keyring.logins(image)]))
        limited: RegistryError | None = None
        private: bool | None = False
        for number, login in enumerate((None, *logins)):
            try:
                return ask(_Place(place, login, private))
            except RegistryError as error:
                if error.class_ == "rate_limit":
                    limited = limited or error
                if error.class_ not in _TRY_ANOTHER or number == len(logins):
                    # What was turned away for its number alone might have been let in.
                    raise (limited if limited and error.class_ == "unauthorized" else error) from None
                if not login:
                    private = None if limited else True
        raise AssertionError("there is always one way to ask")

    # The answers

    def _digest(self, place: _Place, known: Collection[str] | None) -> str:
        # An answer to HEAD has no words: where it does not say enough, the manifest itself is asked for.
        with contextlib.suppress(_Wordless):
            told = self._ask(place, "HEAD", f"manifests/{place.version}", _ACCEPT).headers.get("Docker-Content-Digest")
            believed = known is None or told in known
            if told and believed and _DIGEST.fullmatch(told) and place.reference.digest in ("", told):
                return told
        return self._manifest(place, place.version)[1]

    def _facts(self, place: _Place, wanted: Collection[str]) -> Facts:
        manifest, digest = self._manifest(place, place.version)
        login, private = place.login.source if place.login else "", place.private
        with _well_formed(place):
            if "manifests" not in manifest:
                platform = self._platform(place, manifest)
                layers, manifests = {platform: _layers(manifest)}, {platform: digest} if platform else {}
                return Facts(digest, tuple(manifests), layers, place.host, login, private, manifests)
            digests = _by_platform(manifest)
            layers = {}
            for platform in digests.keys() & set(wanted):
                layers[platform] = _layers(self._manifest(place, digests[platform])[0])
            return Facts(digest, tuple(digests), layers, place.host, login, private, digests)

    def _manifest(self, place: _Place, version: str) -> tuple[dict[str, Any], str]:
        """A manifest or index, and its digest, which is true: that of a tag is computed and compared, too."""
        answer = self._ask(place, "GET", f"manifests/{version}", _ACCEPT)
        promised = version if _DIGEST.fullmatch(version) else answer.headers.get("Docker-Content-Digest", "")
        digest = _digest_of(answer.body, promised)
        if promised not in ("", digest):
            said = promised if _DIGEST.fullmatch(promised) else "without a digest"
            raise RegistryError("other", f"{place.host} lies: its manifest {said} of {_name(place)} has {digest}")
        manifest = _object(answer, place, "a manifest")
        if not {"manifests", "layers"} & manifest.keys():
            raise RegistryError("other", f"{place.host} has {_name(place)} in a form that no runtime pulls any more")
        return manifest, digest

    def _platform(self, place: _Place, manifest: Mapping[str, Any]) -> str:
        """``os/architecture`` of an image without an index; "" where its configuration does not say."""
        digest = str(manifest["config"]["digest"])
        if not _DIGEST.fullmatch(digest):
            raise ValueError(digest)
        answer = self._ask(place, "GET", f"blobs/{digest}", "*/*")
        if digest != _digest_of(answer.body, digest):
            raise RegistryError("other", f"{place.host} lies: its configuration of {_name(place)} is another one")
        config = _object(answer, place, "a configuration")
        name = f"{config.get('os')}/{config.get('architecture')}"
        return name if config.get("architecture") and _PLATFORM.fullmatch(name) else ""

    # Authorization, by the distribution specification

    def _ask(self, place: _Place, method: str, path: str, accept: str) -> _Answer:
        """The answer to one question of the API, with status 200."""
        key = (place.host, place.reference.repository, place.login)
        url = f"{self._scheme(place.host)}://{place.host}/v2/{place.reference.repository}/{path}"
        headers = {"Accept": accept}
        value, until = self._tokens.get(key, ("", 0.0))
        if value and time.monotonic() < until:
            headers["Authorization"] = value
        answer = self._follow(place.login, method, url, headers)
        if answer.status == 401 and _origin(answer.url) == _origin(url):
            value, lifetime = self._authorize(place, answer.headers.get_all("WWW-Authenticate") or [])
            self._tokens[key] = value, time.monotonic() + lifetime
            answer = self._follow(place.login, method, url, {**headers, "Authorization": value})
        if answer.status != 200:
            error = self._refusal(answer, place)
            raise _Wordless(error.class_, str(error)) if method == "HEAD" and error.class_ == "other" else error
        return answer

    def _authorize(self, place: _Place, challenges: Iterable[str]) -> tuple[str, float]:
        """The value of ``Authorization`` that a challenge asks for, and for how many seconds it is good."""
        login = place.login
        for challenge in challenges:
            scheme, _space, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                if login and login.registry_token:
                    return f"Bearer {login.registry_token}", 60.0
                return self._token(place, dict(_CHALLENGE.findall(rest)))
            if scheme.lower() == "basic" and login and login.password:
                return login.basic, 3600.0
        raise _unauthorized(place)

    def _token(self, place: _Place, challenge: Mapping[str, str]) -> tuple[str, float]:
        """Ask the realm for a token, as "Token Authentication" of the distribution project has it."""
        realm, login = _split(challenge.get("realm", ""), place.host), place.login
        if not self._may_be_plain(realm, place.host):
            raise RegistryError(
                "unauthorized",
                f"{place.host} sends us for a token to {_shown(realm)}, which is not reached by https; "
                "no credentials are sent there",
            )
        query = {name: challenge[name] for name in ("service",) if challenge.get(name)}
        query["scope"] = challenge.get("scope") or f"repository:{place.reference.repository}:pull"
        headers, method, body, url = {"Accept": "application/json"}, "GET", None, realm.geturl()
        if login and login.identity_token:
            form = {"grant_type": "refresh_token", "client_id": _USER_AGENT, "refresh_token": login.identity_token}
            method, body = "POST", urllib.parse.urlencode(form | query).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            url += ("&" if realm.query else "?") + urllib.parse.urlencode(query)
            if login and login.password:
                headers["Authorization"] = login.basic
        answer = self._follow(login, method, url, headers, body)
        if answer.status != 200:
            raise self._refusal(answer, place)
        content = _object(answer, place, "a token")
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise RegistryError("other", f"{_shown(realm)} answers without a token")
        lifetime = content.get("expires_in")
        # One minute is what the specification promises where nothing is said.
        return f"Bearer {token}", float(lifetime) * 0.9 if isinstance(lifetime, int) and lifetime > 0 else 54.0

    def _refusal(self, answer: _Answer, place: _Place) -> RegistryError:
        host = urllib.parse.urlsplit(answer.url).netloc
        if answer.status in (401, 403):
            return _unauthorized(place)
        if answer.status == 404 and (answer.headers.get("Docker-Distribution-Api-Version") or _errors(answer)):
            return RegistryError("not_found", f"{host} has no image {_name(place)}")
        if answer.status in (429, 503):
            seconds = _retry_after(answer.headers.get("Retry-After", ""))
            asks = f" and asks to be left alone for {seconds:.0f} s" if seconds else ""
            said = "wants fewer requests (429)" if answer.status == 429 else "is overloaded (503)"
            error = RegistryError("rate_limit" if answer.status == 429 else "network", f"{host} {said}{asks}", seconds)
            # An overloaded host would say the same to all.
            self._rest((host, place.login) if answer.status == 429 else host, error, seconds or _REST_SECONDS)
            return error
        code = next((f" {error['code']}" for error in _errors(answer) if _is_code(error.get("code"))), "")
        what = "a page, not a registry's answer" if _is_page(answer) else f"HTTP status {answer.status}{code}"
        class_ = "network" if answer.status >= 500 else "other"
        return RegistryError(class_, f"{host} answers with {what} when asked for {_name(place)}")

    # HTTP

    def _follow(
        self, login: Login | None, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> _Answer:
        """One request and its redirects; credentials stay with the host that they are for.

        :param login: for whom it is; what is sent of it is in ``headers`` and ``body``.
        """
        first = urllib.parse.urlsplit(url).netloc
        for _redirect in range(MOST_REDIRECTS + 1):
            answer = self._send(login, method, url, headers, body)
            if answer.status not in _REDIRECTS:
                return answer
            parts = _split(answer.headers.get("Location", ""), first, url)
            if not self._may_be_plain(parts, first):
                raise RegistryError("other", f"{first} redirects to {_shown(parts)}, which is not reached by https")
            if body is not None:
                raise RegistryError("other", f"{first} redirects a login, which is not sent on")
            if _origin(parts.geturl()) != _origin(url):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = parts.geturl()
        raise RegistryError("other", f"{first} redirects more than {MOST_REDIRECTS} times")

    def _send(
        self, login: Login | None, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> _Answer:
        """One request, on a connection that is kept; once more where a kept one had been closed meanwhile."""
        parts = urllib.parse.urlsplit(url)
        keys: tuple[_Resting, ...] = (parts.netloc, (parts.netloc, login))
        for error, until in (self._resting[key] for key in keys if key in self._resting):
            if time.monotonic() < until:
                raise RegistryError(error.class_, str(error), error.retry_after)
        try:
            return self._exchange(method, parts, headers, body)
        except _Stale:
            return self._exchange(method, parts, headers, body)

    def _exchange(
        self, method: str, parts: urllib.parse.SplitResult, headers: Mapping[str, str], body: bytes | None
    ) -> _Answer:
        host = parts.netloc
        kept = (parts.scheme, host) in self._open()
        end = time.monotonic() + REQUEST_SECONDS
        try:
            connection, path, for_proxy = self._connect(parts)
            with _cut_off(connection, end - time.monotonic()):
                connection.request(method, path, body, {"User-Agent": _USER_AGENT, **headers, **for_proxy})
                response = connection.getresponse()
                content = response.read(LARGEST_ANSWER + 1)
            if time.monotonic() >= end:  # Cut off, which looks like an end.
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._forget(parts)
            if kept and isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
                raise _Stale from None
            told = _connection_error(host, error, time.monotonic() >= end)
            self._rest(host, told, _REST_SECONDS)
            raise told from None
        if len(content) > LARGEST_ANSWER:
            self._forget(parts)
            limit = LARGEST_ANSWER >> 20
            raise RegistryError("other", f"{host} sends more than {limit} MiB where a manifest is smaller")
        if response.will_close:
            self._forget(parts)
        return _Answer(response.status, response.headers, content, parts.geturl())

    def _connect(self, parts: urllib.parse.SplitResult) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
        """A connection of this thread, open; what to ask it for; and the headers for a proxy that hands it on."""
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        proxy, for_proxy = _proxy(parts), {}
        if proxy and parts.scheme == "http":
            path, for_proxy = parts.geturl(), _proxy_login(proxy)
        key = (parts.scheme, parts.netloc)
        if key not in self._open():
            server = proxy or parts
            connection: http.client.HTTPConnection
            if parts.scheme == "https":
                context = self._blind if parts.netloc in self.access.insecure else self._trusting
                connection = http.client.HTTPSConnection(
                    server.hostname or "",
                    server.port or (3128 if proxy else 443),
                    timeout=CONNECT_SECONDS,
                    context=context,
                )
                if proxy:
                    connection.set_tunnel(parts.hostname or "", parts.port or 443, _proxy_login(proxy))
            else:
                connection = http.client.HTTPConnection(
                    server.hostname or "", server.port or (3128 if proxy else 80), timeout=CONNECT_SECONDS
                )
            connection.connect()
            connection.sock.settimeout(REQUEST_SECONDS)
            self._open()[key] = connection
        return self._open()[key], path, for_proxy

    def _open(self) -> dict[tuple[str, str], http.client.HTTPConnection]:
        """This thread's connections."""
        found: dict[tuple[str, str], http.client.HTTPConnection] | None = getattr(self._connections, "kept", None)
        if found is None:
            found = self._connections.kept = {}
        return found

    def _forget(self, parts: urllib.parse.SplitResult) -> None:
        connection = self._open().pop((parts.scheme, parts.netloc), None)
        if connection:
            connection.close()

    def _rest(self, who: _Resting, error: RegistryError, seconds: float) -> None:
        """Leave a host, or a login to it, alone for a while: what it said to one request it would say to all."""
        self._resting[who] = error, time.monotonic() + seconds

    # Which hosts may be asked how

    def _may_be_plain(self, parts: urllib.parse.SplitResult, host: str) -> bool:
        """Whether ``host``, which may be insecure, may send us to this URL: by https, unless one of them need not."""
        exempt = self.access.insecure | self.access.plain
        return parts.scheme == "https" or (parts.scheme == "http" and bool({parts.netloc, host} & exempt))

    def _scheme(self, host: str) -> str:
        if host in self.access.plain:
            return "http"
        if _is_loopback(host) and host not in self.access.insecure:
            raise RegistryError("network", f"{host} is another machine on each node; it can't be asked from here")
        return "https"


class _Wordless(RegistryError):
    """A refusal of HEAD, which says nothing about its reason."""


class _Stale(Exception):
    """A kept connection had been closed by the other side."""


@contextlib.contextmanager
def _cut_off(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """End what drips: a time-out of a socket begins anew with every byte."""
    sock = connection.sock
    timer = threading.Timer(max(0.01, seconds), lambda: socket.socket.shutdown(sock, socket.SHUT_RDWR))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _well_formed(place: _Place) -> Iterator[None]:
    """Whatever a malformed manifest does to the code that reads it is one sentence."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise RegistryError("other", f"{place.host} has a malformed manifest of {_name(place)}") from None


def _connection_error(host: str, error: Exception, late: bool) -> RegistryError:
    """What a connection raised, in a sentence."""
    if late or isinstance(error, TimeoutError):
        return RegistryError("network", f"{host} does not answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return RegistryError("untrusted", f"the certificate of {host} is not trusted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return RegistryError("untrusted", f"{host} does not speak TLS as it should ({error.reason})")
    if isinstance(error, socket.gaierror):
        class_ = "network" if error.errno == socket.EAI_AGAIN else "unknown_host"
        return RegistryError(class_, f"the host name {host} can't be resolved here ({error.strerror})")
    if isinstance(error, OSError) and not isinstance(error, http.client.RemoteDisconnected):
        return RegistryError("network", f"{host} can't be reached from here ({(error.strerror or str(error)).lower()})")
    return RegistryError("network", f"{host} breaks off, or does not speak HTTP")


def _unauthorized(place: _Place) -> RegistryError:
    if place.login:
        said = f"{place.host} does not accept the login of {place.login.source} for {place.reference.repository}"
        return RegistryError("unauthorized", said)
    return RegistryError("unauthorized", f"{place.host} wants a login for {place.reference.repository}")


def _object(answer: _Answer, place: _Place, what: str) -> dict[str, Any]:
    """The JSON object in an answer."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        kind = "a page, not" if _is_page(answer) else "something else than"
        host = urllib.parse.urlsplit(answer.url).netloc
        raise RegistryError("other", f"{host} answers with {kind} {what} when asked for {_name(place)}")
    return content


def _errors(answer: _Answer) -> list[dict[str, Any]]:
    """The errors that a registry lists in its answer."""
    try:
        found = json.loads(answer.body).get("errors")
    except (ValueError, AttributeError, RecursionError):
        return []
    return [error for error in found if isinstance(error, dict)] if isinstance(found, list) else []


def _is_code(code: object) -> bool:
    return isinstance(code, str) and bool(re.fullmatch(r"[A-Z_]{1,40}", code))


def _is_page(answer: _Answer) -> bool:
    return answer.headers.get_content_type() == "text/html" or answer.body[:100].lstrip()[:1] == b"<"


def _by_platform(index: Mapping[str, Any]) -> dict[str, str]:
    """``os/architecture`` -> digest, the first of each; what describes other entries is no image."""
    found: dict[str, str] = {}
    for entry in index["manifests"]:
        platform = entry.get("platform") or {}
        name = f"{platform.get('os')}/{platform.get('architecture')}"
        if _PLATFORM.fullmatch(name) and name != "unknown/unknown" and platform and _DIGEST.fullmatch(entry["digest"]):
            found.setdefault(name, entry["digest"])
    return found


def _digest_of(content: bytes, like: str) -> str:
    """The digest of a content, by the algorithm of another digest, else SHA-256."""
    algorithm = like.partition(":")[0] if _DIGEST.fullmatch(like) else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def _layers(manifest: Mapping[str, Any]) -> tuple[Layer, ...]:
    return tuple(Layer(str(layer["digest"]), max(0, int(layer["size"]))) for layer in manifest["layers"])


def _name(place: _Place) -> str:
    reference = place.reference
    return f"{reference.repository}{'@' if reference.digest else ':'}{place.version}"


def _origin(url: str) -> tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _split(url: str, host: str, base: str = "") -> urllib.parse.SplitResult:
    """The parts of a URL that a host sent, perhaps relative to another."""
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
        _origin(parts.geturl())
    except ValueError:
        raise RegistryError("other", f"{host} sends us to an address that is none") from None
    return parts


def _shown(parts: urllib.parse.SplitResult) -> str:
    """A URL without what may be secret in it."""
    return f"{parts.scheme or '?'}://{parts.hostname or '?'}"


def _retry_after(text: str) -> float | None:
    """Seconds, of a number of them or of a date; at most a day."""
    if text.strip().isdecimal():
        return min(float(text), 86400.0)
    try:
        wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return min(max(wait, 1.0), 86400.0)


def _is_loopback(host: str) -> bool:
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or name.startswith("127.") or name == "::1"


def _proxy(parts: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
    """The proxy that the environment names for this URL."""
    proxies = urllib.request.getproxies()
    url = proxies.get(parts.scheme) or proxies.get("all")
    if not url or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.parse.urlsplit(url if "://" in url else f"http://{url}")


def _proxy_login(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = Login("", urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or ""))
    return {"Proxy-Authorization": login.basic}
