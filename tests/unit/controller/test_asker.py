# SPDX-License-Identifier: GPL-3.0-or-later
"""What tags stand for, asked of a registry that answers well, badly, late or not at all; hours pass in no time."""

from __future__ import annotations

import base64
import json
import random
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils import registry
from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import ApiError, Client, Cluster
from controller.asker import Asker, Question, access_of
from controller.clock import Clock
from controller.metrics import Metrics
from controller.world import World
from tests.unit.registry_server import Handler, Server, answer, make_certificate, serving

HOUR = 3600.0
FIRST = 30.0  # The middle of the minute in which first questions are spread.
TEAM = frozenset({("cache", "team")})


class Hands(Clock):
    """A clock that goes when a test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Secrets(Cluster):
    """A cluster that has these Secrets, and lets nobody read another one."""

    def __init__(self, found: Mapping[str, dict[str, Any]]) -> None:
        super().__init__(cast(Client, None))
        self.found = found

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if name in self.found:
            return self.found[name]
        raise ApiError(f'secrets "{name}" is forbidden: User "x" cannot get resource "secrets"', 403, "Forbidden")


class Tags:
    """An asker with a registry, and what a test looks at."""

    def __init__(self, server: Server, secrets: Mapping[str, dict[str, Any]], **environment: str) -> None:
        self.server, self.clock, self.changes = server, Hands(), 0
        self.questions: dict[str, Question] = {}
        told = {"REGISTRY_INSECURE": f"http://{server.host}", **environment}
        world = World(
            Secrets(secrets), self.clock, Metrics(), namespace="cache", woken=lambda kind, before, after: None
        )
        self.asker = Asker(world, told, lambda: self.questions, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def wants(self, *names: str, interval: float = HOUR, **more: Any) -> None:
        """These tags, of this registry, are to be asked for."""
        self.questions = {self.image(name): Question(interval, **more) for name in names}

    def image(self, name: str) -> str:
        return f"{self.server.host}/team/{name}:1"

    def after(self, seconds: float) -> list[str]:
        """What the registry is asked in the pass after so many seconds, as ``HEAD java11``."""
        self.clock.at += seconds
        seen = len(self.server.seen)
        self.asker.ask()
        return [f"{s.method} {s.path.split('/')[3]}" for s in self.server.seen[seen:]]

    def digests(self) -> dict[str, str]:
        """What is known, by the names."""
        return {image.split("/")[-1].split(":")[0]: digest for image, digest in self.asker.digests.items()}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def tags(server: Server, monkeypatch: pytest.MonkeyPatch) -> Tags:
    """Without jitter, and with the registry's own pauses by the same clock."""
    made = Tags(server, {})
    still(monkeypatch, made)
    return made


def still(monkeypatch: pytest.MonkeyPatch, made: Tags) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    monkeypatch.setattr(registry, "time", types.SimpleNamespace(monotonic=made.clock.monotonic, time=time.time))


def refuse(status: int, **headers: str) -> Any:
    def behave(handler: Handler) -> bool:
        return answer(handler, status, b"{}", **headers)

    return behave


def well(_handler: Handler) -> bool:
    return False


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said since the last look."""
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return said


# --- well ------------------------------------------------------------------------------------------------------------


def test_a_tag_is_asked_for_once_in_its_interval_and_only_its_head_once_it_is_known(server: Server, tags: Tags) -> None:
    first = server.image("team/java11")
    tags.wants("java11")
    assert tags.after(0) == []  # The first questions are spread over a minute.
    assert tags.after(FIRST) == ["HEAD java11", "GET java11"]
    assert (tags.digests(), tags.changes) == ({"java11": first}, 1)
    assert tags.after(HOUR - 1) == []
    assert tags.after(1) == ["HEAD java11"]
    second = server.image("team/java11", layers=(2000,))
    assert tags.after(HOUR) == ["HEAD java11", "GET java11"]
    assert tags.digests() == {"java11": second}


def test_a_digest_that_nodes_hold_is_believed_at_a_word(server: Server, tags: Tags) -> None:
    held = server.image("team/java11")
    tags.wants("java11", held=frozenset({held}))
    assert tags.after(0) + tags.after(FIRST) == ["HEAD java11"]
    assert tags.digests() == {"java11": held}


def test_a_digest_that_the_manifest_does_not_have_is_no_answer(
    server: Server, tags: Tags, caplog: pytest.LogCaptureFixture
) -> None:
    server.image("team/java11")
    body, _kind = server.content["/v2/team/java11/manifests/1"]
    server.behave = lambda handler: answer(handler, 200, body, Docker_Content_Digest=f"sha256:{'0' * 64}")
    tags.wants("java11")
    assert tags.after(0) + tags.after(FIRST) == ["HEAD java11", "GET java11"]
    assert tags.digests() == {}
    assert "lies" in warnings(caplog)[0]


def test_what_is_not_asked_for_any_more_is_not_known_any_more(server: Server, tags: Tags) -> None:
    server.image("team/java11")
    server.image("team/theia")
    tags.wants("java11", "theia")
    tags.after(0)
    tags.after(FIRST)
    assert tags.digests().keys() == {"java11", "theia"}
    tags.wants("theia")
    assert tags.after(1) == []
    assert tags.digests().keys() == {"theia"}


def test_what_is_forgotten_is_not_known_until_its_time_has_come(server: Server, tags: Tags) -> None:
    digest = server.image("team/java11")
    tags.wants("java11")
    tags.after(0)
    tags.after(FIRST)
    tags.asker.forget([tags.image("java11")])
    assert tags.changes == 2
    assert tags.after(HOUR - 1) == []
    assert tags.digests() == {}
    assert tags.after(1) == ["HEAD java11"]
    assert tags.digests() == {"java11": digest}


def test_what_is_urgent_is_asked_for_at_once_unless_it_has_just_not_been_answered(server: Server, tags: Tags) -> None:
    server.image("team/java11")
    tags.wants("java11", "absent")
    tags.after(0)
    assert "HEAD absent" in tags.after(FIRST)
    for seconds in (10, 1, 1):  # However often somebody wants to know.
        tags.after(seconds)
        tags.asker.hurry([tags.image("java11"), tags.image("absent")])
        assert tags.after(0) == (["HEAD java11"] if seconds == 10 else [])
    assert tags.after(4) == ["HEAD java11"]
    assert tags.after(4) == []


# --- badly -----------------------------------------------------------------------------------------------------------


def test_the_pauses_double_up_to_the_interval_and_one_answer_ends_that(
    server: Server, tags: Tags, caplog: pytest.LogCaptureFixture
) -> None:
    server.image("team/java11")
    server.behave = refuse(500)
    tags.wants("java11", interval=400.0)
    tags.after(0)
    assert tags.after(FIRST)
    for pause in (60.0, 120.0, 240.0, 400.0, 400.0):
        assert tags.after(pause - 1) == []
        assert tags.after(1), pause
    (said,) = warnings(caplog)
    assert said.startswith("what tags stand for could not be asked: ")
    assert said.endswith("Until it can, the nodes keep what they have of them")
    assert tags.asker.errors.keys() == {tags.image("java11")}
    server.behave = well
    assert tags.after(400)
    assert (warnings(caplog), tags.asker.errors) == ([], {})
    server.behave = refuse(500)
    assert tags.after(400)
    assert tags.digests() == {}  # Unknown, which changes nothing.
    assert tags.after(59) == []
    assert tags.after(1)
    assert len(warnings(caplog)) == 1  # Said again, because it was well in between.


def test_one_reason_of_many_tags_is_said_once_though_they_are_asked_one_after_another(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tags = Tags(server, {})
    still(monkeypatch, tags)
    spread = iter((0.0, 20.0, 40.0))
    monkeypatch.setattr(random, "uniform", lambda low, high: next(spread, 1.0))
    server.behave = refuse(503, Retry_After="1000")
    tags.wants("java11", "theia", "tools")
    for _pass in range(4):
        tags.after(20)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_wants_rest_is_left_alone_for_as_long_as_it_says(
    server: Server, tags: Tags, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low)  # As early as can be.
    for name in ("java11", "theia", "tools"):
        server.image(f"team/{name}")
    server.behave = refuse(status, Retry_After="600")
    tags.wants("java11", "theia", "tools")
    assert len(tags.after(0)) == 1  # What it says to one is for all.
    for _minute in range(9):
        assert tags.after(60) == []
    assert tags.after(59) == []
    server.behave = well
    assert sorted(tags.after(1)) == sorted(f"{m} {n}" for m in ("HEAD", "GET") for n in ("java11", "theia", "tools"))
    (said,) = warnings(caplog)
    assert "asks to be left alone for 600 s" in said


def test_a_refusal_is_said_once_and_other_tags_are_told(
    server: Server, tags: Tags, caplog: pytest.LogCaptureFixture
) -> None:
    digest = server.image("team/java11")

    def private(handler: Handler) -> bool:
        return "/private/" in handler.path and answer(handler, 401, b"{}", WWW_Authenticate='Basic realm="r"')

    server.behave = private
    tags.wants("java11", "private")
    tags.after(0)
    for _hour in range(4):
        tags.after(HOUR)
    assert tags.digests() == {"java11": digest}
    (said,) = warnings(caplog)
    assert said.startswith("what tags stand for could not be asked: ")
    assert "wants a login for team/private" in said


# --- logins ----------------------------------------------------------------------------------------------------------


def secret(host: str, password: str) -> dict[str, Any]:
    auths = {"auths": {host: {"username": "puller", "password": password}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
    return {"metadata": {"name": "team"}, "type": "kubernetes.io/dockerconfigjson", "data": data}


def test_a_login_of_a_pull_secret_is_used_and_one_that_is_renewed_is_seen(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = server.image("team/java11")
    good = "Basic " + base64.b64encode(b"puller:right").decode()

    def private(handler: Handler) -> bool:
        refused = handler.headers.get("Authorization") != good
        return refused and answer(handler, 401, b"{}", WWW_Authenticate='Basic realm="r"')

    server.behave = private
    secrets = {"team": secret(server.host, "wrong")}
    tags = Tags(server, secrets)
    still(monkeypatch, tags)
    tags.wants("java11", secrets=TEAM)
    tags.after(0)
    tags.after(FIRST)
    assert tags.digests() == {}
    secrets["team"] = secret(server.host, "right")
    tags.after(60)
    assert tags.digests() == {"java11": digest}


def test_a_login_that_may_not_be_read_is_said_once_and_it_is_asked_without(
    server: Server, tags: Tags, caplog: pytest.LogCaptureFixture
) -> None:
    digest = server.image("team/java11")
    tags.wants("java11", secrets=TEAM)
    tags.after(0)
    for _hour in range(3):
        assert tags.after(HOUR)
    assert tags.digests() == {"java11": digest}
    (said,) = warnings(caplog)
    assert said.endswith("Until then its registries are asked without a login")
    assert '"team" is forbidden' in said


# --- how registries are reached --------------------------------------------------------------------------------------


def test_an_authority_of_ones_own_is_trusted_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = make_certificate(tmp_path)
    mounted = tmp_path / "mounted"  # As the kubelet makes it: keys are links to where they are now.
    (mounted / "..data").mkdir(parents=True)
    with serving(files) as server:
        tags = Tags(server, {}, REGISTRY_INSECURE="", REGISTRY_AUTHORITIES=str(mounted))
        still(monkeypatch, tags)
        monkeypatch.setattr(registry, "_is_loopback", lambda host: False)
        digest = server.image("team/java11")
        tags.wants("java11")
        tags.after(0)
        assert tags.after(FIRST) == []
        missing, failed = warnings(caplog)
        assert f"no certificate can be read from {mounted}. Remedy: " in missing
        assert "certificate" in failed
        (mounted / "..data" / "any.key").write_text(f"# A comment, ä\n{files[0].read_text()}", encoding="utf-8")
        (mounted / "any.key").symlink_to(mounted / "..data" / "any.key")
        assert tags.after(60) == ["HEAD java11", "GET java11"]
        assert (tags.digests(), warnings(caplog)) == ({"java11": digest}, [])


def test_a_mirror_is_asked_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = server.image("copies/team/java11")
    mirrors = json.dumps({"registry.example.com": [f"{server.host}/copies"]})
    tags = Tags(server, {}, REGISTRY_MIRRORS=mirrors)
    still(monkeypatch, tags)
    tags.questions = {"registry.example.com/team/java11:1": Question(HOUR)}
    tags.after(0)
    tags.after(FIRST)
    assert tags.digests() == {"java11": digest}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"REGISTRY_MIRRORS": "quay.io"}, "REGISTRY_MIRRORS 'quay.io': it is a text, not a JSON object. Remedy: "),
        ({"REGISTRY_MIRRORS": "{"}, "REGISTRY_MIRRORS '{': it is n"),
        ({"REGISTRY_MIRRORS": '{"quay.io": 1}'}, "what stands in the place of quay.io is no registry"),
        ({"REGISTRY_MIRRORS": '{"https://quay.io": "m.example.com"}'}, "REGISTRY_MIRRORS 'https://quay.io': "),
        ({"REGISTRY_INSECURE": "ftp://r.example.com"}, "REGISTRY_INSECURE 'ftp://r.example.com': "),
        ({"REGISTRY_AUTHORITIES": "/no/such/directory"}, "no certificate can be read from /no/such/directory"),
    ],
)
def test_what_can_not_be_used_is_named_and_the_rest_is_used(environment: dict[str, str], said: str) -> None:
    good = {"REGISTRY_MIRRORS": '{"docker.io": "m.example.com"}', "REGISTRY_INSECURE": "r.example.com"}
    used, problem = access_of({**good, **environment})
    assert problem.startswith("how registries are reached: ")
    assert said in problem
    assert used.mirrors == ({} if "REGISTRY_MIRRORS" in environment else {"docker.io": ("m.example.com",)})
    assert used.insecure == (set() if "REGISTRY_INSECURE" in environment else {"r.example.com"})


def test_without_a_word_registries_are_reached_as_by_anybody() -> None:
    assert access_of({}) == (registry.Access(), "")
