# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock file: what is written can be read, is the same for the same images, and what is wrong with it is said."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import (
    Lock,
    Locked,
    Wanted,
    at_odds,
    drift,
    mismatches,
    parse_lock,
    renewed,
    show_lock,
    wanted_images,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.lockfile import compare, open_lock, read_lock
from ansible_collections.kubecache.image_puller.plugins.module_utils.registry import Facts, Layer, RegistryError
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings

from . import objects

PATH = "/srv/puller.lock.yml"
INDEX, AMD, ARM = (f"sha256:{digit * 64}" for digit in "0ab")
THEN, NOW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
JAVA = Locked("cache", "java11", "r.io/java:1", INDEX, {"linux/amd64": AMD, "linux/arm64": ARM}, 1000, THEN)
FACTS = Facts(
    INDEX,
    ("linux/amd64", "linux/arm64"),
    {"linux/amd64": (Layer("a", 600), Layer("b", 400)), "linux/arm64": (Layer("a", 600), Layer("a", 600))},
    "r.io",
    manifests={"linux/amd64": AMD, "linux/arm64": ARM},
)
WANTED = [Wanted("cache", "java11", "r.io/java:1")]

_digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
_entries = st.lists(
    st.builds(
        Locked,
        st.sampled_from(["cache", "helper", "controller"]),
        st.from_regex(re.compile(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8})?"), fullmatch=True),
        objects.references,
        _digests,
        st.dictionaries(st.sampled_from(["linux/amd64", "linux/arm64", "windows/amd64"]), _digests),
        st.integers(0, 10**12),
        st.just(THEN),
    ),
    max_size=5,
    unique_by=(lambda entry: (entry.use, entry.name), lambda entry: entry.image),
)


@given(_entries)
def test_what_is_written_is_read_and_written_the_same_in_whatever_order(entries: list[Locked]) -> None:
    text = show_lock(entries)
    read = parse_lock(text, PATH).images
    assert {(entry.use, entry.name): entry for entry in read} == {(entry.use, entry.name): entry for entry in entries}
    assert show_lock(reversed(read)) == text


def _text(**change: Any) -> str:
    return show_lock([Locked(**{**vars(JAVA), **change})])


DAMAGED = {
    "": "it lacks the field version. Remedy: write version.",
    "- a": "it is a JSON list, not a JSON object. Remedy: write a JSON object such as {version: 1, images: [...]}.",
    "version: [": "it is neither JSON nor YAML (expected the node content, but found '<stream end>' at line 1",
    "version: 2\nimages: []": "version 2 is not 1, the only one that is known. Remedy: update the collection",
    _text(digest="sha256:12"): "images[0].digest 'sha256:12' is no digest. Remedy: correct it, or write the lock anew",
    _text().replace("image: r.io/java:1", "image: r.io/J"): "images[0].image 'r.io/J' is no reference of an image.",
    _text(size=-1): "images[0].size -1 is no number of bytes.",
    _text(locked="yesterday"): "images[0].locked 'yesterday' is no time.",
    _text().replace("use: cache", "use: other"): "images[0].use 'other' is no use (cache, helper, controller).",
    _text(platforms={"linux/amd64": "x"}): "images[0].platforms 'x' is no digest.",
    _text().replace("source: r.io/java@", "source: r.io/j@"): f"images[0].source 'r.io/j@{INDEX}' is not r.io/java@",
    _text().replace("target: java:1", "target: java:2"): "images[0].target 'java:2' is not java:1, as image and digest",
    _text().replace("target: java:1", "target: [1]"): "images[0].target [1] is no text.",
    _text().replace("size:", "sise:"): "the field images[0].sise is unknown. Remedy: write size.",
    show_lock([JAVA, JAVA]): "images[1].name 'java11' is there twice. Remedy: remove one, or write the lock anew",
    show_lock(
        [JAVA, Locked("cache", "b", JAVA.image, AMD, {}, 1, THEN)]
    ): f"images[1].digest '{INDEX}' is the second one",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_what_is_wrong_with_a_file_is_said_with_path_key_value_and_remedy(text: str) -> None:
    with pytest.raises(InvalidSettings) as error:
        parse_lock(text, PATH)
    assert f"- lock '{PATH}': {DAMAGED[text]}" in str(error.value)
    assert all(problem.remedy for problem in error.value.problems)


def test_a_lock_that_does_not_say_what_a_mirror_copies_is_read_too() -> None:
    older = re.sub(r"^ *(source|target): .*\n", "", _text(), flags=re.MULTILINE)
    assert "java@" not in older
    assert parse_lock(older, PATH).images == (JAVA,)


def test_names_missing_too_many_and_other_references() -> None:
    lock = Lock(PATH, (JAVA, Locked("cache", "old", "r.io/old:1", AMD, {}, 1, THEN)))
    wanted = [Wanted("cache", "java11", "r.io/java:2"), Wanted("cache", "gpu/cuda", "r.io/cuda:1")]
    renew = "write the lock anew with the playbook plan and lock_update=true"
    assert [str(problem) for problem in mismatches(lock, wanted)] == [
        f"lock '{PATH}': the image java11 (cache) is r.io/java:1, and r.io/java:2 in the list. "
        f"Remedy: correct the list, or {renew}.",
        f"lock '{PATH}': there is no image gpu/cuda (cache), which is r.io/cuda:1 in the list. Remedy: {renew}.",
        f"lock '{PATH}': the image old (cache) is not in the list. Remedy: correct the list, or {renew}.",
    ]
    assert mismatches(lock, WANTED, whole=False) == []
    assert mismatches(Lock(PATH, (JAVA,)), WANTED) == []


def test_all_that_an_installation_needs_is_wanted_and_each_helper_once() -> None:
    main = objects.settings(images="a=r.io/a:1", helper_image="r.io/h:1")
    gpu = objects.settings(images="a=r.io/b:1", helper_image="r.io/h:1")
    assert wanted_images([("", main), ("gpu", gpu)], "r.io/puller:1") == [
        Wanted("cache", "a", "r.io/a:1"),
        Wanted("cache", "gpu/a", "r.io/b:1"),
        Wanted("helper", "helper", "r.io/h:1"),
        Wanted("controller", "controller", "r.io/puller:1"),
    ]


def test_what_is_still_so_keeps_its_time() -> None:
    assert renewed(WANTED, {"r.io/java:1": FACTS}, [JAVA], NOW) == (JAVA,)
    (entry,) = renewed(WANTED, {"r.io/java:1": FACTS}, [Locked(**{**vars(JAVA), "digest": AMD})], NOW)
    assert (entry.digest, entry.locked, entry.size) == (INDEX, NOW, 1000)


def test_a_lock_with_a_hole_is_not_made() -> None:
    with pytest.raises(RuntimeError, match=r"not written: .* java11 \(r\.io/java:1\): r\.io is down\. Remedy: "):
        renewed(WANTED, {"r.io/java:1": RegistryError("network", "r.io is down")}, [JAVA], NOW)


def test_a_tag_that_has_moved_is_told_and_one_that_was_not_asked_for_is_unknown() -> None:
    lock, other = Lock(PATH, (JAVA,)), f"sha256:{'c' * 64}"
    assert drift(lock, {"r.io/java:1": INDEX}) == drift(lock, {"r.io/java:1": AMD}) == []
    (moved,) = drift(lock, {"r.io/java:1": other})
    assert (moved["locked"], moved["found"]) == (INDEX, other)
    assert moved["message"].startswith(f"java11 (r.io/java:1) is {other} in its registry now, and the lock has {INDEX}")
    (unknown,) = drift(lock, {"r.io/java:1": RegistryError("network", "r.io is down")})
    assert unknown["found"] is None
    assert unknown["message"].endswith("is unknown: r.io is down")


def test_a_file_that_can_not_be_read_is_refused_with_its_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidSettings, match=r"there is no such file\. Remedy: correct the path, or write"):
        read_lock(str(tmp_path / "absent.yml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for unreadable in (tmp_path, tmp_path / "binary"):
        with pytest.raises(InvalidSettings, match=re.escape(f"lock '{unreadable}': it can't be read. Remedy: ")):
            read_lock(str(unreadable))


def test_a_lock_that_is_only_compared_is_not_to_be_written(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lock.yml"
    path.write_text(show_lock([JAVA]))
    found = compare(str(path), [("", objects.settings(images="java11=r.io/java:1"))], "", whole=False)
    assert (found.action, found.problems, found.diff()) == ("none", (), [])
    with pytest.raises(InvalidSettings, match="there is no image helper"):
        compare(str(path), [("", objects.settings(images="java11=r.io/java:1"))], "").require()


def test_to_write_a_lock_its_path_is_needed() -> None:
    cluster: Any = None  # Which is not asked.
    assert open_lock(cluster, [], {"lock": None, "lock_update": False}) is None
    with pytest.raises(RuntimeError, match="lock_update writes the file that lock names"):
        open_lock(cluster, [], {"lock": None, "lock_update": True})


def test_a_controller_that_would_take_nodes_from_the_lock_is_told_with_the_remedy() -> None:
    pinned = {"images": {"java11": f"r.io/java:1@{INDEX}"}}
    sets = [objects.settings(daemonset_name="a"), objects.settings(daemonset_name="b", refresh="restart")]
    quiet = [objects.settings(refresh="never"), objects.settings(**pinned)]
    (told,) = at_odds([*sets, *quiet])
    assert told.startswith("a, b: the controller does not know of the lock. ")
    assert told.endswith("Remedy: set refresh to never")
    assert at_odds(quiet) == []
