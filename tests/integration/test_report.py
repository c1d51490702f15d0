# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as the playbooks and the module write it, of images on real nodes."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.report import read
from tests.cluster import Cluster
from tests.running import ansible_environment

from .conftest import Playbook, eventually

IMAGE = "registry.example.com/report/java11:2.1"
ABSENT = "registry.example.com/report/theia:absent"
UNKNOWN = "registry.nowhere.example/report/idea:1"
FORMS = (".html", ".json", ".prom")


@pytest.fixture(autouse=True)
def image(cluster: Cluster) -> None:
    cluster.push(IMAGE)


def rows_of(path: pathlib.Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(node, name of the image) -> the row of a JSON report with one set."""
    (each,) = json.loads(path.read_text())["sets"]
    return {(row["node"], row["name"]): row for row in each["rows"]}


@pytest.mark.thorough
def test_every_playbook_writes_the_report_in_every_form(
    cluster: Cluster, namespace: str, playbook: Playbook, tmp_path: pathlib.Path
) -> None:
    images = {"java11": IMAGE, "theia": ABSENT}
    first = [str(tmp_path / f"install{form}") for form in FORMS]
    failed = playbook("install", ok=False, images=images, controller=False, report=first)
    assert "not_found" in failed.stdout
    html, data, gauges = map(pathlib.Path, first)
    rows = rows_of(data)
    nodes = {node for node, _ in rows}
    assert len(rows) == 4
    assert {rows[node, "theia"]["state"] for node in nodes} == {"failed"}
    assert {rows[node, "theia"]["class"] for node in nodes} == {"not_found"}
    told = read(html.read_text())["sets"][0]
    assert told["verdict"] == "Degraded"
    assert told["name"] == f"{namespace}/kubernetes-image-puller"
    assert 'verdict="Degraded"} 1' in gauges.read_text()
    assert ABSENT in html.read_text()

    cluster.push(ABSENT)
    eventually(lambda: "Healthy: DaemonSet" in playbook("status").stdout, seconds=120, pause=2)
    text = ",".join(first[:2])
    again = playbook("status", report=text)
    assert again.changed == 0
    moved = json.loads(data.read_text())["former"]["sets"][told["key"]]
    assert moved["verdict"] == ["Degraded", "Healthy"]
    assert {each["image"]: each["to"] for each in moved["moved"]}["theia"] == "cached"
    assert {row["state"] for row in rows_of(data).values()} == {"cached"}
    assert all(row["held"] and row["digest"].startswith("sha256:") for row in rows_of(data).values())

    assert json.loads(data.read_text())["server"].startswith("https://")

    last = tmp_path / "health.html"
    assert playbook("health_check", report=str(last)).changed == 0
    assert read(last.read_text())["sets"][0]["verdict"] == "Healthy"
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o444, "whoever serves a report must be able to read it"
    assert len(list(tmp_path.iterdir())) == 4, "a temporary file was left"


@pytest.mark.thorough
def test_a_file_that_cannot_be_written_undoes_nothing(playbook: Playbook, tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing" / "report.html"
    done = playbook("install", images={"java11": IMAGE}, controller=False, report=str(missing))
    told = " ".join(done.stdout.split())
    assert f"The report can't be written to {missing} on the control node" in told
    assert f"the directory {missing.parent} does not exist" in told
    assert "1 of 1 image cached on both nodes" in told
    rehearsal = playbook("status", "--check", report=str(tmp_path / "report.html"))
    assert "can't be written" not in rehearsal.stdout
    assert list(tmp_path.iterdir()) == []


def test_each_file_that_cannot_be_written_is_named_with_its_own_reason(
    playbook: Playbook, tmp_path: pathlib.Path
) -> None:
    """A directory, a file where a directory is to be, and a place where not even root may write."""
    directory, file = tmp_path / "directory.html", tmp_path / "file"
    directory.mkdir()
    file.write_text("kept")
    bad = {
        directory: "Is a directory",
        file / "report.json": "Not a directory",
        pathlib.Path("/sys/report.prom"): "Permission denied",
    }
    good = tmp_path / "report.html"
    done = playbook("install", images={"java11": IMAGE}, controller=False, report=[*map(str, bad), str(good)])
    told = " ".join(done.stdout.split())
    for path, why in bad.items():
        assert f"The report can't be written to {path} on the control node: {why}." in told
    assert "1 of 1 image cached on both nodes" in told
    assert read(good.read_text())["sets"][0]["verdict"] == "Healthy"
    assert sorted(tmp_path.iterdir()) == [directory, file, good], "a temporary file was left"
    assert file.read_text() == "kept"


def run_module(cluster: Cluster, namespace: str, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A play of a user's own: look, then write."""
    tasks: list[dict[str, Any]] = [
        {"kubecache.image_puller.image_puller_info": {"namespace": namespace}, "register": "state"},
        {"kubecache.image_puller.image_puller_report": {"report": "{{ state }}", **options}},
    ]
    play = json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}])
    return subprocess.run(
        ["ansible-playbook", "/dev/stdin"],
        input=play,
        env=ansible_environment(cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.thorough
def test_the_module_fails_where_the_report_is_all_that_was_asked_for(
    cluster: Cluster, namespace: str, tmp_path: pathlib.Path
) -> None:
    missing, good = tmp_path / "missing" / "report.html", tmp_path / "report.html"
    done = run_module(cluster, namespace, {"path": [str(missing), str(good)]})
    assert done.returncode == 2
    assert f"The report can't be written to {missing} on the control node" in " ".join(done.stdout.split())
    assert read(good.read_text())["sets"][0]["verdict"] == "Absent"

    done = run_module(cluster, namespace, {"path": str(tmp_path / "report.pdf")})
    assert done.returncode == 2
    assert "its name must end in .html, .json, .prom" in " ".join(done.stdout.split())

    foreign = tmp_path / "foreign.json"
    foreign.write_text("{}")
    done = run_module(cluster, namespace, {"path": str(good), "since": str(foreign)})
    assert done.returncode == 0, done.stdout
    assert f"The report says nothing of changes since {foreign}: it is no report" in " ".join(done.stdout.split())


def test_a_credential_in_a_reference_does_not_get_into_the_report(
    cluster: Cluster, namespace: str, playbook: Playbook, core: str, tmp_path: pathlib.Path
) -> None:
    report = [str(tmp_path / f"report{form}") for form in FORMS]
    pulled = {"java11": IMAGE, "idea": UNKNOWN}
    secret = "a-password-that-nobody-may-see"
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl(
        *("create", "secret", "docker-registry", "registry", "-n", namespace),
        *("--docker-server=registry.nowhere.example", "--docker-username=me", f"--docker-password={secret}"),
    )
    playbook("install", images=pulled, image_pull_secrets="registry", controller=False, wait=False, report=report)
    told = playbook("status", "-vvvv", core=core, report=report).stdout
    for path in map(pathlib.Path, report):
        assert secret not in path.read_text()
        assert "idea" in path.read_text()
    assert secret not in told
