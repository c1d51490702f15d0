# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as a document, as a page, as JSON and for Prometheus: complete, comparable, and text wherever text is."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.kubecache.image_puller.plugins.module_utils.failures import redact
from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES
from ansible_collections.kubecache.image_puller.plugins.module_utils.matrix import (
    LEFT_OUT,
    LONGEST_MESSAGE,
    MOST_STORIES,
    from_rows,
    pack,
    time_of,
    unpack,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import (
    document,
    read,
    to_json,
    to_prometheus,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import Row

from .reports import TEAM, fleet, result

NOW, LATER = "2026-11-23T16:00:00Z", "2026-11-24T16:00:00Z"
ABSENT: dict[str, Any] = {
    **result([]),
    "verdict": "Absent",
    "reasons": ["the DaemonSet does not exist"],
    "daemonset": None,
    "settings": None,
}


def row(node: str, name: str = "java11", state: str = "cached", **more: Any) -> Row:
    return Row(node, name, f"{TEAM}/{name}:2.1", state, **more)


def made(told: dict[str, Any], time: str = NOW, **more: Any) -> dict[str, Any]:
    """The document of a result."""
    return document(told, time=time, version="0.1.0", **more)


def test_it_says_of_which_cluster_it_is() -> None:
    told = made(result([row("node-1")]))
    assert told["server"] == "https://api.example.com:6443"
    assert "2026-11-23 16:00:00 UTC on https://api.example.com:6443." in to_html(told)
    assert " on " not in to_html(made(result([row("node-1")], server=None))).partition("As it was")[2].partition("<")[0]


class Parsed(HTMLParser):
    """The elements, attributes and texts of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src", "action", "xlink:href"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


# --- the compact form ------------------------------------------------------------------------------------------------

texts = st.none() | st.text(max_size=20)
rows_of_any_kind = st.lists(
    st.builds(
        row,
        st.sampled_from(["node-1", "node-2", "node-3"]),
        st.sampled_from(["java11", "theia"]),
        st.sampled_from(STATES),
        class_=texts,
        held=st.booleans(),
        reason=texts,
        message=texts,
        digest=texts,
        since=st.none() | st.integers(0, 2**32).map(time_of),
        pull_seconds=st.none() | st.floats(0, 1e6),
        size=st.none() | st.integers(0),
        tries=st.integers(0, 9),
    ),
    unique_by=lambda each: (each.node, each.name),
)


@given(rows_of_any_kind)
def test_the_compact_form_loses_nothing(rows: list[Row]) -> None:
    matrix = unpack(pack(from_rows(rows)))
    told = sorted((each.as_dict() for each in rows), key=lambda each: (each["node"], each["name"]))
    assert sorted(matrix.rows(), key=lambda each: (each["node"], each["name"])) == told
    assert list(from_rows(told).rows()) == list(from_rows(told).rows())


def test_images_and_nodes_without_a_row_have_their_place() -> None:
    matrix = from_rows([row("node-2")], [("theia", "t"), ("java11", f"{TEAM}/java11:2.1")], ["node-1", "node-2"])
    assert matrix.nodes == ["node-1", "node-2"]
    assert [name for name, _ in matrix.images] == ["theia", "java11"]
    assert matrix.cells == [[-1, -1], [-1, 0]]


def test_messages_are_bounded_in_length_and_number() -> None:
    rows = [row(f"node-{n}", state="failed", message=f"{n} {'x' * LONGEST_MESSAGE}") for n in range(MOST_STORIES + 5)]
    told = [each["message"] for each in from_rows(rows).rows()]
    assert told[-5:] == [LEFT_OUT] * 5
    assert len(set(told)) == MOST_STORIES + 1
    assert {len(message) for message in told[:-5]} == {LONGEST_MESSAGE}


@pytest.mark.parametrize("text", ["", "bm8=", "no base64", pack(from_rows([]))[:-8]])
def test_what_was_not_packed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(text)


def test_100_000_rows_fit_into_the_result_of_a_task() -> None:
    assert len(fleet(5000, 20, packed=True)["matrix"]) < 2**20


# --- the document ----------------------------------------------------------------------------------------------------


def test_rows_and_the_compact_form_make_the_same_report() -> None:
    assert made(fleet(7, 5)) == made(fleet(7, 5, packed=True))


def test_a_result_without_rows_is_refused() -> None:
    told = fleet(1, 1)
    told["details"] = "problems"
    with pytest.raises(ValueError, match="its rows are not complete; ask the module with matrix: true"):
        made(told)


def test_the_cost_is_that_of_the_set_on_all_nodes_that_match() -> None:
    (each,) = made(fleet(5, 6))["sets"]
    assert each["cost"]["node"]["memory_limits"] == "120Mi"
    assert each["cost"]["total"] == {
        "pods": 5,
        "images": 30,
        "cpu_requests": "1500m",
        "cpu_limits": "6",
        "memory_requests": "300Mi",
        "memory_limits": "600Mi",
    }


@pytest.mark.parametrize(
    ("whole", "cpu", "memory"), [(None, "10m", "32Mi"), (True, "10m", "32Mi"), (False, "1", "200Mi")]
)
def test_the_cost_of_image_volumes_is_that_of_the_containers_where_pods_have_no_resources_as_a_whole(
    whole: bool | None, cpu: str, memory: str
) -> None:
    told = fleet(1, 20)
    daemonset = {**told["daemonset"], "strategy": "image_volume"}
    (each,) = made({**told, "daemonset": daemonset if whole is None else {**daemonset, "pod_resources": whole}})["sets"]
    assert (each["cost"]["node"]["cpu_requests"], each["cost"]["node"]["memory_requests"]) == (cpu, memory)


def test_changes_are_told_by_image_and_state() -> None:
    gone, new = row("node-9"), row("node-5")
    before = [row(f"node-{n}") for n in range(1, 4)] + [row("node-4", state="pulling"), gone, row("node-1", "idea")]
    now = [row("node-1", state="failed", class_="network"), row("node-2", state="failed", class_="network")]
    now += [row("node-3"), row("node-4"), new, row("node-1", "theia")]
    told = made(result(now), LATER, former=made(result(before)))["former"]
    assert (told["time"], told["added"], told["removed"]) == (NOW, [], [])
    assert told["sets"]["k8s-image-puller/kubernetes-image-puller"] == {
        "verdict": ["Healthy", "Degraded"],
        "images_added": ["theia"],
        "images_removed": ["idea"],
        "images_changed": [],
        "nodes_added": {"count": 1, "names": ["node-5"]},
        "nodes_removed": {"count": 1, "names": ["node-9"]},
        "moved": [
            {
                "image": "java11",
                "from": "cached",
                "to": "failed",
                "class": "network",
                "nodes": {"count": 2, "names": ["node-1", "node-2"]},
            },
            {
                "image": "java11",
                "from": "pulling",
                "to": "cached",
                "class": None,
                "nodes": {"count": 1, "names": ["node-4"]},
            },
        ],
    }


def test_nothing_changed_is_said() -> None:
    page = to_html(made(fleet(3, 3), LATER, former=made(fleet(3, 3))))
    assert "Since the report of 2026-11-23 16:00:00 UTC</h3><p>Nothing changed.</p>" in page


@pytest.mark.parametrize("form", [to_html, to_json])
def test_what_was_written_can_be_compared_with(form: Any) -> None:
    before = made(fleet(7, 5))
    former = read(form(before))
    assert former["time"] == NOW
    assert made(fleet(9, 6), former=former) == made(fleet(9, 6), former=before)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "{}",
        "[" * 100_000,
        '{"report":"kubecache.image_puller","format":2}',
        '{"report":"kubecache.image_puller","format":1,"time":"","sets":[{"key":"x","verdict":"Healthy"}]}',
        '{"report":"kubecache.image_puller","format":1,"time":"","sets":[{"key":"x","verdict":"","matrix":{"a":1}}]}',
    ],
)
def test_what_is_no_report_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is no report of kubecache\.image_puller: "):
        read(text)


def several() -> dict[str, Any]:
    """The result for all sets of an installation."""
    gpu = {**fleet(2, 2), "daemonset": {"name": "kubernetes-image-puller-gpu", "namespace": "k8s-image-puller"}}
    sets = [
        {"config_map_name": "k8s-image-puller", "group": None, "report": fleet(4, 3)},
        {"config_map_name": "k8s-image-puller-gpu", "group": "gpu", "report": gpu},
    ]
    return {"verdict": "Degraded", "sets": sets}


def test_each_set_has_its_section() -> None:
    page = to_html(made(several()))
    assert page.count("data-set=") == 2
    assert "Group gpu: Healthy</h2><p>DaemonSet k8s-image-puller/kubernetes-image-puller-gpu</p>" in page
    assert '<a href="#set-1">Group gpu</a>' in page


def test_sets_that_came_and_went_are_told() -> None:
    one = made({"verdict": "Degraded", "sets": several()["sets"][:1]})
    assert made(several(), former=one)["former"]["added"] == ["k8s-image-puller-gpu"]
    assert "This set was not there." in to_html(made(several(), former=one))
    two = made(several())
    page = to_html(made(several() | {"sets": several()["sets"][:1]}, former=two))
    assert "these sets are gone: k8s-image-puller/kubernetes-image-puller-gpu." in page


def test_without_a_daemonset_the_reason_is_the_report() -> None:
    page = to_html(made(ABSENT))
    assert "the DaemonSet does not exist" in Parsed(page).text
    assert "data-set=" not in page


# --- text is text ----------------------------------------------------------------------------------------------------

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;<!--\u2028{content}{data}\\u003c"


def hostile(text: str) -> dict[str, Any]:
    """A result with the text in every place that a cluster, a registry or a user fills."""
    story: dict[str, Any] = {"reason": text, "message": text, "digest": text}
    rows = [Row(text, text, text, "failed", since=text, **story), Row(f"{text}2", text, text, "cached", **story)]
    rows += [Row(f"{text}3", text, text, "cached", digest="x"), Row(f"{text}5", text, text, "cached", digest=text)]
    told = result(
        rows,
        excused={f"{text}2": text},
        skipped={f"{text}4": text},
        verdict=text,
        reasons=[text, f"{text} The kubelet says: {text}. Remedy: {text}"],
        problems=[text],
        inferred=True,
        daemonset={"name": text, "namespace": text, "generation": 1},
        settings=None,
    )
    told["rows"][0]["class"] = text
    told["server"] = text
    return told


def hostile_page(text: str) -> str:
    before = hostile(text)
    before["rows"][0]["state"] = "cached"
    before["images"] = [{"name": text, "image": "another"}]
    former = made(before, text)
    return to_html(document(hostile(text), time=text, version=text, notes=[text], former=former))


@given(st.just(HOSTILE) | st.text(min_size=1, max_size=30))
def test_no_text_becomes_markup(text: str) -> None:
    harmless, found = Parsed(hostile_page("harmless")), Parsed(hostile_page(text))
    assert found.tags == harmless.tags
    assert found.attributes == harmless.attributes
    assert {link for link in found.links if not re.match(r"#(i|matrix)-[a-z_0-9]+$", link)} == set()


def test_hostile_text_is_shown_as_it_is() -> None:
    assert Parsed(hostile_page(HOSTILE)).text.count(HOSTILE) > 20


def test_the_data_in_the_page_are_those_of_the_document() -> None:
    told = made(hostile(HOSTILE))
    page = to_html(told)
    (data,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data) == told


def test_the_page_names_no_other_file() -> None:
    page = to_html(made(fleet(5, 6)))
    assert {link for link in Parsed(page).links if not link.startswith("#")} == set()
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("form", [to_html, to_json, to_prometheus])
def test_the_same_input_makes_the_same_file(form: Any) -> None:
    assert form(made(fleet(9, 6))) == form(made(fleet(9, 6)))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('Get "https://user:pass@r.example.com/v2/": EOF', 'Get "https://...@r.example.com/v2/": EOF'),
        ("https://token@r.example.com/v2/", "https://...@r.example.com/v2/"),
        (
            'Get "https://blobs.example.com/a?X-Amz-Signature=abc&X-Amz-Credential=d": EOF',
            'Get "https://blobs.example.com/a?...": EOF',
        ),
        ("Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "Authorization: Bearer ..."),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "authorization: basic ..."),
        ("no basic auth credentials", "no basic auth credentials"),
        ('Bearer realm="https://auth.example.com/token"', 'Bearer realm="https://auth.example.com/token"'),
        ("registry.example.com/team/a@sha256:0f5c", "registry.example.com/team/a@sha256:0f5c"),
    ],
)
def test_credentials_in_a_message_are_left_out(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    told = made(result([row("node-1", state="failed", class_="other", message=text)], reasons=[text], problems=[text]))
    for form in (to_html, to_json, to_prometheus):
        for secret in ("user:pass", "Signature=abc", "e30.c2ln", "dXNlcjpw"):
            assert secret not in form(told)


# --- the twins -------------------------------------------------------------------------------------------------------


def test_json_has_the_rows_of_the_module() -> None:
    told = fleet(6, 6)
    (each,) = json.loads(to_json(made(told)))["sets"]
    assert each["rows"] == told["rows"]
    assert each["summary"] == told["summary"]
    golang = next(image for image in each["images"] if image["name"] == "golang")
    assert (golang["nodes"], golang["failed"], golang["classes"]) == (5, 5, {"not_found": 5})


@given(st.just(HOSTILE) | st.text(max_size=30))
def test_prometheus_reads_the_textfile(text: str) -> None:
    told = made(hostile(text) if text else fleet(6, 6))
    families = {family.name: family for family in text_string_to_metric_families(to_prometheus(told))}
    samples = families["image_puller_report_image_nodes"].samples
    assert {sample.labels["image"] for sample in samples} == {name for name, _ in told["sets"][0]["matrix"]["images"]}


def test_the_textfile_counts_nodes_by_state_and_class() -> None:
    text = to_prometheus(made(fleet(6, 6)))
    assert 'image_puller_report_verdict{set="k8s-image-puller/kubernetes-image-puller",verdict="Degraded"} 1\n' in text
    for line in (
        'image_nodes{set="k8s-image-puller/kubernetes-image-puller",image="golang",state="failed"} 5',
        'image_nodes{set="k8s-image-puller/kubernetes-image-puller",image="java11",state="cached"} 5',
        'failed_nodes{set="k8s-image-puller/kubernetes-image-puller",image="golang",class="not_found"} 5',
        'excused_nodes{set="k8s-image-puller/kubernetes-image-puller"} 1',
        "timestamp_seconds{} 1795449600",
    ):
        assert f"image_puller_report_{line}\n" in text
