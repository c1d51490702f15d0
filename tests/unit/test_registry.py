# SPDX-License-Identifier: GPL-3.0-or-later
"""Registries are asked as the distribution specification says, and none of them can hang, flood or rob us."""

from __future__ import annotations

import base64
import itertools
import json
import pathlib
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils import registry
from ansible_collections.kubecache.image_puller.plugins.module_utils.credentials import Keyring, from_text
from ansible_collections.kubecache.image_puller.plugins.module_utils.images import parse_reference
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import (
    Access,
    Facts,
    Layer,
    Registries,
    RegistryError,
)
from tests.unit.registry_server import INDEX, MANIFEST, Handler, Server, answer, digest, make_certificate, serving

PASSWORD = "correct-horse-battery-staple"
AMD64 = ("linux/amd64",)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Server]:
    with serving() as made:
        yield made


def login(*hosts: str, password: str = PASSWORD) -> Keyring:
    """A keyring with one login for these hosts."""
    entry = {"username": "reader", "password": password}
    return from_text(json.dumps({"auths": dict.fromkeys(hosts, entry)}), "pull secret team")


def registries(*servers: Server, keyring: Keyring | None = None, **access: Any) -> Registries:
    """What asks these servers, which speak no TLS."""
    return Registries(Access(keyring or Keyring(), plain=frozenset(s.host for s in servers), **access))


def refusal(asked: Callable[[], object]) -> RegistryError:
    """The error that asking ends with: one sentence, and no secret in it."""
    with pytest.raises(RegistryError) as caught:
        asked()
    said = str(caught.value)
    assert PASSWORD not in said
    assert "\n" not in said
    return caught.value


def basic(handler: Handler) -> bool:
    """Let nobody in but the reader."""
    expected = base64.b64encode(f"reader:{PASSWORD}".encode()).decode()
    if handler.headers.get("Authorization") == f"Basic {expected}":
        return False
    return answer(handler, 401, b"{}", WWW_Authenticate='Basic realm="registry"')


# --- what a good registry says ---------------------------------------------------------------------------------------


def test_an_image_without_an_index_tells_its_platform_in_its_configuration(server: Server) -> None:
    made = server.image("team/java11", layers=(10, 20))
    found = registries(server).facts(f"{server.host}/team/java11:1", AMD64)
    assert found.digest == made
    assert found.platforms == ("linux/amd64",)
    assert found.layers_for("linux/amd64") == (Layer(digest(b"10"), 10), Layer(digest(b"20"), 20))
    assert found.layers_for("linux/arm64") is None
    assert (found.private, found.login, found.source) == (False, "", server.host)


def test_an_index_names_its_platforms_and_only_those_in_question_are_asked_for(server: Server) -> None:
    made = server.index("team/theia", platforms={"linux/amd64": (10,), "linux/arm64": (30,), "linux/s390x": (40,)})
    found = registries(server).facts(f"{server.host}/team/theia:1", ("linux/arm64", "linux/riscv64"))
    assert found.digest == made
    assert found.platforms == ("linux/amd64", "linux/arm64", "linux/s390x")
    assert found.layers == {"linux/arm64": (Layer(digest(b"30"), 30),)}
    assert len(server.seen) == 2


def test_the_digest_of_a_tag_costs_one_head_request(server: Server) -> None:
    made = server.image("team/java11")
    assert registries(server).digest(f"{server.host}/team/java11:1") == made
    assert [seen.method for seen in server.seen] == ["HEAD"]


def test_without_a_digest_header_the_manifest_is_read_and_hashed(server: Server) -> None:
    made = server.image("team/java11")
    content, kind = server.content["/v2/team/java11/manifests/1"]
    server.behave = lambda handler: answer(handler, 200, content, Content_Type=kind)
    assert registries(server).digest(f"{server.host}/team/java11:1") == made


def test_a_reference_by_digest_is_asked_by_digest(server: Server) -> None:
    made = server.image("team/java11")
    assert registries(server).facts(f"{server.host}/team/java11:1@{made}", AMD64).digest == made
    assert server.seen[0].path.endswith(made)


def test_images_are_asked_a_few_at_a_time_on_kept_connections(server: Server) -> None:
    images = [f"{server.host}/team/image-{number}:1" for number in range(20)]
    for number in range(20):
        server.image(f"team/image-{number}")

    def late(handler: Handler) -> bool:
        time.sleep(0.02)
        return False

    server.behave = late
    found = registries(server).facts_of_all(images, AMD64)
    assert list(found) == images
    assert all(isinstance(facts, Facts) for facts in found.values())
    assert 1 < server.most_at_once <= registry.PARALLEL
    assert server.connections <= registry.PARALLEL


def test_a_connection_that_was_closed_meanwhile_is_opened_again(server: Server) -> None:
    server.image("team/java11")

    def close(handler: Handler) -> bool:
        handler.close_connection = True  # Without saying so.
        return False

    server.behave = close
    asked = registries(server)
    for _ in range(2):
        assert asked.facts(f"{server.host}/team/java11:1", AMD64).platforms == AMD64


def test_an_image_that_is_not_there_is_not_found(server: Server) -> None:
    error = refusal(lambda: registries(server).facts(f"{server.host}/team/gone:1", AMD64))
    assert (error.class_, str(error)) == ("not_found", f"{server.host} has no image team/gone:1")


# --- logins ----------------------------------------------------------------------------------------------------------


def test_a_private_image_is_known_as_such_and_read_with_the_login_that_fits(server: Server) -> None:
    server.image("team/java11")
    server.behave = basic
    found = registries(server, keyring=login(server.host)).facts(f"{server.host}/team/java11:1", AMD64)
    assert (found.private, found.login) == (True, "pull secret team")


def test_a_public_image_is_read_without_a_login_though_there_is_one(server: Server) -> None:
    server.image("team/java11")
    found = registries(server, keyring=login(server.host)).facts(f"{server.host}/team/java11:1", AMD64)
    assert (found.private, found.login) == (False, "")
    assert all("Authorization" not in seen.headers for seen in server.seen)


def test_a_login_is_sent_only_to_a_registry_that_asks_for_one_and_that_it_is_for(server: Server) -> None:
    server.behave = basic
    error = refusal(
        lambda: registries(server, keyring=login("other.example.com")).facts(f"{server.host}/team/java11:1", AMD64)
    )
    assert str(error) == f"{server.host} wants a login for team/java11"
    assert all("Authorization" not in seen.headers for seen in server.seen)


def test_a_wrong_password_is_told_by_the_name_of_its_secret(server: Server) -> None:
    server.behave = basic
    wrong = login(server.host, password="wrong-password")
    error = refusal(lambda: registries(server, keyring=wrong).facts(f"{server.host}/team/java11:1", AMD64))
    assert str(error) == f"{server.host} does not accept the login of pull secret team for team/java11"
    assert "wrong-password" not in repr(wrong)


class TokenRealm:
    """A token endpoint, and the registry that wants its tokens."""

    def __init__(self, server: Server, realm: Server, *, anonymous: bool = False, url: str = "") -> None:
        self.url = url or f"http://{realm.host}/token?flavour=1"
        self.anonymous = anonymous
        server.behave = self.registry
        realm.behave = self.realm

    def registry(self, handler: Handler) -> bool:
        if handler.headers.get("Authorization") == "Bearer t0ken":
            return False
        challenge = f'Bearer realm="{self.url}",service="the registry",scope="repository:team/java11:pull"'
        return answer(handler, 401, b"{}", WWW_Authenticate=challenge)

    def realm(self, handler: Handler) -> bool:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        known = "Authorization" in handler.headers or b"refresh_token=id-token" in body
        if not known and not self.anonymous:
            return answer(handler, 401, b"{}")
        asked = query | urllib.parse.parse_qs(body.decode())
        assert asked["service"] == ["the registry"]
        assert asked["scope"] == ["repository:team/java11:pull"]
        return answer(handler, 200, b'{"token": "t0ken", "expires_in": 300}')


def test_a_token_is_fetched_from_the_realm_and_serves_until_it_expires(server: Server, other: Server) -> None:
    server.image("team/java11")
    TokenRealm(server, other, anonymous=True)
    asked = registries(server, other)
    for _ in range(3):
        assert asked.facts(f"{server.host}/team/java11:1", AMD64).private is False
    assert len(other.seen) == 1
    assert sum("Authorization" not in seen.headers for seen in server.seen) == 1


def test_a_login_goes_to_the_realm_and_only_the_token_to_the_registry(server: Server, other: Server) -> None:
    server.image("team/java11")
    TokenRealm(server, other)
    found = registries(server, other, keyring=login(server.host)).facts(f"{server.host}/team/java11:1", AMD64)
    assert found.private
    assert {seen.headers.get("Authorization") for seen in server.seen} == {None, "Bearer t0ken"}
    assert other.seen[-1].headers["Authorization"].startswith("Basic ")


def test_an_identity_token_is_exchanged_as_oauth2_has_it(server: Server, other: Server) -> None:
    server.image("team/java11")
    TokenRealm(server, other)
    keyring = from_text(json.dumps({"auths": {server.host: {"identitytoken": "id-token"}}}), "the auth file")
    assert registries(server, other, keyring=keyring).facts(f"{server.host}/team/java11:1", AMD64).private
    assert [seen.method for seen in other.seen] == ["GET", "POST"]


@pytest.mark.parametrize("url", ["http://192.0.2.1/token", "ftp://192.0.2.1/", "file:///etc/passwd", "token", ""])
def test_no_login_is_sent_to_a_realm_that_is_not_reached_by_https(
    server: Server, tmp_path: pathlib.Path, url: str
) -> None:
    files = make_certificate(tmp_path)
    with serving(files) as trusted:
        TokenRealm(trusted, server, url=url or "http:")
        access = Access(login(trusted.host), authorities=files[0].read_text(), insecure=frozenset())
        error = refusal(lambda: registry_over_tls(access, trusted))
    assert "which is not reached by https; no credentials are sent there" in str(error)
    assert server.seen == []


def registry_over_tls(access: Access, server: Server) -> Facts:
    """The facts of an image of a server with TLS, which only these tests reach on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_is_loopback", lambda host: False)
        return Registries(access).facts(f"{server.host}/team/java11:1", AMD64)


# --- hostile registries ----------------------------------------------------------------------------------------------


def test_a_login_is_not_carried_along_a_redirect_to_another_host(server: Server, other: Server) -> None:
    server.image("team/java11")
    other.content = server.content

    def elsewhere(handler: Handler) -> bool:
        return basic(handler) or answer(handler, 307, Location=f"http://{other.host}{handler.path}")

    server.behave = elsewhere
    found = registries(server, other, keyring=login(server.host)).facts(f"{server.host}/team/java11:1", AMD64)
    assert found.private
    assert other.seen
    assert all("Authorization" not in seen.headers for seen in other.seen)


def test_a_challenge_behind_a_redirect_gets_no_login(server: Server, other: Server) -> None:
    server.behave = lambda handler: answer(handler, 302, Location=f"http://{other.host}{handler.path}")
    other.behave = basic
    keyring = login(server.host)
    error = refusal(lambda: registries(server, other, keyring=keyring).facts(f"{server.host}/team/java11:1", AMD64))
    assert error.class_ == "unauthorized"
    assert all("Authorization" not in seen.headers for seen in other.seen)


def test_a_redirect_without_an_end_ends(server: Server) -> None:
    server.behave = lambda handler: answer(handler, 302, Location=handler.path)
    error = refusal(lambda: registries(server).digest(f"{server.host}/team/java11:1"))
    assert str(error) == f"{server.host} redirects more than 5 times"


@pytest.mark.parametrize("url", ["http://192.0.2.1/x", "ftp://192.0.2.1/x", "file:///etc/passwd"])
def test_a_redirect_away_from_https_is_not_followed(tmp_path: pathlib.Path, url: str) -> None:
    files = make_certificate(tmp_path)
    with serving(files) as server:
        server.behave = lambda handler: answer(handler, 302, Location=url)
        error = refusal(lambda: registry_over_tls(Access(authorities=files[0].read_text()), server))
    assert "which is not reached by https" in str(error)


@pytest.mark.parametrize("url", ["http://[x", "http://127.0.0.1:99999/", "http://a:b:c/"])
def test_a_redirect_to_no_address_is_a_sentence(server: Server, url: str) -> None:
    server.behave = lambda handler: answer(handler, 302, Location=url)
    assert refusal(lambda: registries(server).digest(f"{server.host}/team/java11:1")).class_ == "other"


def test_a_registry_that_wants_rest_gets_it(server: Server) -> None:
    server.behave = lambda handler: answer(handler, 429, b"{}", Retry_After="120")
    images = [f"{server.host}/team/image-{number}:1" for number in range(registry.PARALLEL * 3)]
    found = registries(server).facts_of_all(images, AMD64)
    for error in found.values():
        assert isinstance(error, RegistryError)
        assert (error.class_, error.retry_after) == ("rate_limit", 120.0)
        assert str(error) == f"{server.host} wants fewer requests (429) and asks to be left alone for 120 s"
    assert len(server.seen) <= registry.PARALLEL


class LimitedRealm(TokenRealm):
    """The same, where an address without a login has asked too often: for tokens, or with such a token."""

    def __init__(self, server: Server, realm: Server, *, at: str, knows: bool = True) -> None:
        super().__init__(server, realm)
        self.at, self.knows = at, knows

    def registry(self, handler: Handler) -> bool:
        if handler.headers.get("Authorization") == "Bearer anybody":
            return answer(handler, 429, b"{}", Retry_After="120")
        return super().registry(handler)

    def realm(self, handler: Handler) -> bool:
        if "Authorization" in handler.headers:
            return super().realm(handler) if self.knows else answer(handler, 401, b"{}")
        if self.at == "realm":
            return answer(handler, 429, b"{}", Retry_After="120")
        return answer(handler, 200, b'{"token": "anybody"}')


@pytest.mark.parametrize(("at", "asked_again"), [("registry", ["Bearer t0ken"]), ("realm", [None, "Bearer t0ken"])])
def test_a_limit_of_those_without_a_login_is_none_of_a_login(
    server: Server, other: Server, at: str, asked_again: list[str | None]
) -> None:
    made = server.image("team/java11")
    LimitedRealm(server, other, at=at)
    asked = registries(server, other, keyring=login(server.host))
    found = asked.facts(f"{server.host}/team/java11:1", AMD64)
    assert (found.digest, found.login, found.private) == (made, "pull secret team", None)
    server.seen.clear()
    other.seen.clear()
    assert asked.digest(f"{server.host}/team/java11:1") == made
    assert [seen.headers.get("Authorization") for seen in server.seen] == asked_again
    assert other.seen == [], "what was limited is left alone meanwhile"


def test_what_a_limit_hides_is_not_known_to_be_refused(server: Server, other: Server) -> None:
    """The login is refused, and without one the image might be had."""
    LimitedRealm(server, other, at="registry", knows=False)
    asked = registries(server, other, keyring=login(server.host))
    assert refusal(lambda: asked.facts(f"{server.host}/team/java11:1", AMD64)).class_ == "rate_limit"


def test_an_overloaded_registry_is_left_alone_with_every_login(server: Server) -> None:
    server.behave = lambda handler: answer(handler, 503, b"{}")
    asked = registries(server, keyring=login(server.host))
    for _ in range(2):
        assert refusal(lambda: asked.facts(f"{server.host}/team/java11:1", AMD64)).class_ == "network"
    assert len(server.seen) == 1


@pytest.mark.parametrize(("text", "seconds"), [("3", 3), ("999999999", 86400), ("soon", None), ("", None)])
def test_retry_after_is_a_number_of_seconds(server: Server, text: str, seconds: float | None) -> None:
    server.behave = lambda handler: answer(handler, 429, b"{}", Retry_After=text)
    assert refusal(lambda: registries(server).digest(f"{server.host}/team/a:1")).retry_after == seconds


def test_retry_after_may_be_a_date(server: Server) -> None:
    server.behave = lambda handler: answer(handler, 429, b"{}", Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")
    assert refusal(lambda: registries(server).digest(f"{server.host}/team/a:1")).retry_after == 86400


@pytest.mark.parametrize("status", [200, 404, 403, 500])
def test_a_page_is_not_taken_for_a_registrys_answer(server: Server, status: int) -> None:
    page = b"<!DOCTYPE html><title>Log in</title>"
    server.behave = lambda handler: answer(handler, status, page, Content_Type="text/html")
    error = refusal(lambda: registries(server).facts(f"{server.host}/team/java11:1", AMD64))
    assert error.class_ != "not_found"
    assert status == 403 or "answers with a page, not" in str(error)


def test_ten_gigabytes_are_not_read(server: Server) -> None:
    def flood(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(10 << 30))
        handler.end_headers()
        for _ in range(10 << 10):
            handler.wfile.write(b" " * (1 << 20))
        return True

    server.behave = flood
    error = refusal(lambda: registries(server).facts(f"{server.host}/team/java11:1", AMD64))
    assert str(error) == f"{server.host} sends more than 4 MiB where a manifest is smaller"


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_answer_that_drips_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(registry, "REQUEST_SECONDS", 0.6)

    def drip(handler: Handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b"X: "))
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.1)
        return True

    server.behave = drip
    begin = time.monotonic()
    error = refusal(lambda: registries(server).facts(f"{server.host}/team/java11:1", AMD64))
    assert str(error) == f"{server.host} does not answer in time"
    assert time.monotonic() - begin < 5


def after(seconds: float) -> Callable[[Handler], bool]:
    """Answer nothing, so late."""

    def behave(_handler: Handler) -> bool:
        time.sleep(seconds)
        return True

    return behave


def test_one_that_never_answers_holds_up_nobody_else(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REQUEST_SECONDS", 0.5)
    server.behave = after(3)
    other.image("team/java11")
    silent = [f"{server.host}/team/image-{number}:1" for number in range(registry.PARALLEL * 2)]
    begin = time.monotonic()
    found = registries(server, other).facts_of_all([*silent, f"{other.host}/team/java11:1"], AMD64)
    assert isinstance(found.popitem()[1], Facts)
    assert {str(error) for error in found.values()} == {f"{server.host} does not answer in time"}
    assert time.monotonic() - begin < 2.5


def test_all_images_together_have_a_limit(server: Server) -> None:
    server.behave = after(2)
    images = [f"{server.host}/team/image-{number}:1" for number in range(3)]
    begin = time.monotonic()
    found = registries(server).facts_of_all(images, AMD64, seconds=0.4)
    assert time.monotonic() - begin < 1.5
    assert {str(error) for error in found.values()} == {
        f"{server.host} gave no answer within the 0 s that all images have"
    }


def lying(manifest: bytes, told: bytes) -> Callable[[Handler], bool]:
    return lambda handler: answer(handler, 200, manifest, Content_Type=MANIFEST, Docker_Content_Digest=digest(told))


def test_a_digest_header_that_is_not_the_manifests_is_a_lie(server: Server) -> None:
    server.behave = lying(b'{"layers": []}', b"another")
    error = refusal(lambda: registries(server).facts(f"{server.host}/team/java11:1", AMD64))
    assert str(error).startswith(f"{server.host} lies: its manifest {digest(b'another')} of team/java11:1 has ")


def test_a_digest_is_believed_at_a_word_only_where_it_is_known(server: Server) -> None:
    server.behave = lying(b'{"layers": []}', b"another")
    image, told = f"{server.host}/team/java11:1", digest(b"another")
    assert registries(server).digest(image, known={told}) == told
    assert "lies" in str(refusal(lambda: registries(server).digest(image, known={digest(b"held")})))


def test_a_manifest_that_is_not_the_one_asked_for_is_a_lie(server: Server) -> None:
    server.behave = lying(b'{"layers": []}', b'{"layers": []}')
    asked = f"{server.host}/team/java11@{digest(b'wanted')}"
    assert "lies" in str(refusal(lambda: registries(server).facts(asked, AMD64)))
    assert "lies" in str(refusal(lambda: registries(server).digest(asked)))


def test_a_manifest_or_configuration_of_an_index_that_is_another_one_is_a_lie(server: Server) -> None:
    server.index("team/a", platforms={"linux/amd64": (10,)})
    server.image("team/b")
    for path in server.content:
        if path.startswith("/v2/team/a/manifests/sha256") or "/team/b/blobs/" in path:
            server.content[path] = b'{"layers": []}', MANIFEST
    server.content["/v2/team/a/manifests/1"] = server.content["/v2/team/a/manifests/1"][0], INDEX
    for image in ("team/a:1", "team/b:1"):
        asked = partial(registries(server).facts, f"{server.host}/{image}", AMD64)
        assert "lies" in str(refusal(asked))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("sha256:" + "0" * 64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["manifests", "layers", "config", "digest", "size", "platform", "os", "architecture", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(manifest=json_values | st.binary(max_size=40))
def test_no_manifest_breaks_us(server: Server, manifest: Any) -> None:
    content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    server.behave = lambda handler: answer(handler, 200, content)
    (found,) = registries(server).facts_of_all([f"{server.host}/team/java11:1"], AMD64).values()
    assert found.class_ == "other" if isinstance(found, RegistryError) else found.digest == digest(content)


def test_words_of_a_registry_are_not_repeated(server: Server) -> None:
    def echo(handler: Handler) -> bool:
        said = json.dumps({"errors": [{"code": handler.headers.get("Authorization", "NO"), "message": PASSWORD}]})
        return basic(handler) or answer(handler, 418, said.encode())

    server.behave = echo
    keyring = login(server.host)
    error = refusal(lambda: registries(server, keyring=keyring).facts(f"{server.host}/team/java11:1", AMD64))
    assert str(error) == f"{server.host} answers with HTTP status 418 when asked for team/java11:1"


# --- how they are reached --------------------------------------------------------------------------------------------


def test_a_certificate_must_be_trusted_unless_the_registry_is_insecure(tmp_path: pathlib.Path) -> None:
    files = make_certificate(tmp_path)
    with serving(files) as server:
        server.image("team/java11")
        error = refusal(lambda: registry_over_tls(Access(), server))
        assert error.class_ == "untrusted"
        assert f"the certificate of {server.host} is not trusted (" in str(error)
        for access in (Access(authorities=files[0].read_text()), Access(insecure=frozenset({server.host}))):
            assert registry_over_tls(access, server).platforms == AMD64


def test_a_registry_without_tls_is_not_spoken_to_in_plain_text(server: Server) -> None:
    error = refusal(lambda: registry_over_tls(Access(), server))
    assert error.class_ in ("untrusted", "network")
    assert server.seen == []


def test_localhost_is_another_machine_on_each_node(server: Server) -> None:
    for host in ("localhost", "127.0.0.1:5000", "[::1]:5000"):
        error = refusal(partial(Registries().digest, f"{host}/team/java11:1"))
        assert str(error) == f"{host} is another machine on each node; it can't be asked from here"


def test_nobody_listens_and_nobody_has_the_name() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        error = refusal(lambda: Registries(Access(plain=frozenset({host}))).digest(f"{host}/team/java11:1"))
    assert str(error) == f"{host} can't be reached from here (connection refused)"
    error = refusal(lambda: Registries().digest("no-such-host.invalid/team/java11:1"))
    assert error.class_ in ("unknown_host", "network")
    assert "no-such-host.invalid can't be resolved here" in str(error)


def test_a_mirror_is_asked_first_and_the_registry_after_it(server: Server, other: Server) -> None:
    other.image("cache/team/java11")
    server.image("team/theia")
    asked = registries(server, other, mirrors={f"{server.host}": (f"{other.host}/cache",)})
    assert asked.facts(f"{server.host}/team/java11:1", AMD64).source == other.host
    assert server.seen == []
    assert asked.facts(f"{server.host}/team/theia:1", AMD64).source == server.host


def test_a_mirror_gets_the_login_of_the_registry_in_whose_place_it_stands(server: Server) -> None:
    server.image("team/java11")
    server.behave = basic
    asked = registries(server, keyring=login("quay.io"), mirrors={"quay.io": (server.host,)})
    assert asked.facts("quay.io/team/java11:1", AMD64).login == "pull secret team"


def test_the_mirror_of_the_longest_prefix_counts(server: Server, other: Server) -> None:
    server.image("x")
    mirrors = {"quay.io": (f"{other.host}/all",), "quay.io/team": (server.host,), "quay.io/te": (other.host,)}
    assert registries(server, other, mirrors=mirrors).facts("quay.io/team/x:1", AMD64).source == server.host


def test_a_proxy_of_the_environment_is_used(server: Server, other: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:{PASSWORD}@{other.host}")
    other.behave = lambda handler: answer(handler, 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
    asked = registries(server)
    error = refusal(lambda: asked.digest(f"{server.host}/team/java11:1"))
    assert error.class_ == "not_found"
    assert other.seen[0].path == f"http://{server.host}/v2/team/java11/manifests/1"
    assert other.seen[0].headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert refusal(lambda: registries(server).digest(f"{server.host}/team/java11:1")).class_ == "not_found"
    assert len(server.seen) == 2


# --- which login belongs to which image ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "image", "fits"),
    [
        ("registry.example.com", "registry.example.com/team/java11:1", True),
        ("https://registry.example.com/", "registry.example.com/team/java11:1", True),
        ("https://registry.example.com/v2/", "registry.example.com/team/java11:1", True),
        ("registry.example.com/team", "registry.example.com/team/java11:1", True),
        ("registry.example.com/other", "registry.example.com/team/java11:1", False),
        ("registry.example.com:5000", "registry.example.com/team/java11:1", False),
        ("registry.example.com:5000", "registry.example.com:5000/team/java11:1", True),
        ("*.example.com", "registry.example.com/team/java11:1", True),
        ("*.example.com", "a.registry.example.com/team/java11:1", False),
        ("*.*.example.com", "a.registry.example.com/team/java11:1", True),
        ("regis*.example.com", "registry.example.com/team/java11:1", True),
        ("example.com", "registry.example.com/team/java11:1", False),
        ("https://index.docker.io/v1/", "java11:1", True),
        ("index.docker.io", "docker.io/team/java11:1", True),
        ("docker.io", "team/java11:1", True),
        ("docker.io", "quay.io/team/java11:1", False),
    ],
)
def test_a_login_fits_as_the_kubelet_has_it(key: str, image: str, fits: bool) -> None:
    reference = parse_reference(image)
    assert bool(login(key).logins(reference)) is fits


def test_the_most_specific_login_comes_first() -> None:
    keys = ["r.example.com", "r.example.com/team/java", "r.example.com/team"]
    for order in itertools.permutations(keys):
        keyring = sum((from_text(json.dumps({"auths": {k: {"auth": "YTpi"}}}), k) for k in order), Keyring())
        found = keyring.logins(parse_reference("r.example.com/team/java:1"))
        assert [one.source for one in found] == sorted(keys, reverse=True)
