# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates of extensions/aap, run by ansible-runner in the way a job of Automation Platform runs.

The project is read-only, there is no home directory and no terminal, the credential is a token in the environment, and
the extra variables are a survey's answers: text, of which an empty one means "not set".
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster
from tests.running import ROOT
from tests.setup import BUILD

from ..conftest import DAEMONSET, Kubectl, new_namespace

JAVA = "registry.example.com/team/java11:2.1"
THEIA = "registry.example.com/team/theia:2.1"
ABSENT = "registry.example.com/team/absent:1"
SLOW = "registry.example.com/runner-slow/image:1"
# ansible-runner is started in a mount namespace of its own, in which the project can't be written.
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
AAP = yaml.safe_load((ROOT / "extensions" / "aap" / "image_puller.yml").read_text())
SURVEYS = {template["playbook"]: template["survey_spec"]["spec"] for template in AAP["controller_templates"]}


@dataclass(frozen=True)
class Job:
    """A job that has ended: its exit status, what it printed, and its artifact ``image_puller``."""

    rc: int
    stdout: str
    artifact: dict[str, Any]


@dataclass
class Platform:
    """A directory as Automation Platform prepares it for a job, and the environment that its credential makes."""

    directory: Path
    namespace: str
    environment: dict[str, str]
    jobs: list[str] = field(default_factory=list)

    def run(self, playbook: str, *, ok: bool = True, **answers: str) -> Job:
        """Launch the template of a playbook; questions that are not answered here have the survey's default."""
        path = f"playbooks/{playbook}.yml"
        given = {"image_puller_namespace": self.namespace} | {f"image_puller_{key}": answers[key] for key in answers}
        asked = {question["variable"]: str(question["default"]) for question in SURVEYS[path]}
        assert given.keys() <= asked.keys()
        (self.directory / "env" / "extravars").write_text(json.dumps(asked | given))
        self.jobs.append(playbook)
        job = f"{len(self.jobs)}-{playbook}"
        project = str(self.directory / "project")
        runner = [str(BUILD / "platform" / "bin" / "ansible-runner"), "run", str(self.directory)]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", project, *runner, "-p", path, "--ident", job],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return Job(done.returncode, done.stdout, self._artifact(job))

    def _artifact(self, job: str) -> dict[str, Any]:
        """What Automation Platform takes as the artifacts: those of the event with which the play ends."""
        events = [
            json.loads(path.read_text()) for path in (self.directory / "artifacts" / job / "job_events").glob("*.json")
        ]
        (last,) = [event["event_data"] for event in events if event["event"] == "playbook_on_stats"]
        found: dict[str, Any] = last.get("artifact_data", {}).get("image_puller", {})
        return found


def test_ansible_reads_the_description_without_a_warning_and_takes_what_is_called_otherwise() -> None:
    given = json.dumps({"image_puller_aap": {"credential": "production"}})
    path = ROOT / "extensions" / "aap" / "image_puller.yml"
    command = ["ansible", "localhost", "-m", "ansible.builtin.debug", "-a", "var=controller_templates"]
    done = subprocess.run(
        [*command, "-i", "localhost,", "-e", f"@{path}", "-e", given], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    templates = json.loads(done.stdout.partition("=>")[2])["controller_templates"]
    assert [template["credentials"] for template in templates] == [["production"]] * 5
    assert {template["organization"] for template in templates} == {"Default"}


def test_each_ansible_core_takes_the_artifact_from_what_is_shown(core: str, tmp_path: Path) -> None:
    tasks = [{"kubecache.image_puller.image_puller_table": {"notes": ["it was shown"]}}]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "collections"),
        "ANSIBLE_SHOW_CUSTOM_STATS": "1",
    }
    if core:
        environment["PYTHONPATH"] = str(BUILD / "ansible-core" / core)
    command = [sys.executable, "-m", "ansible", "playbook", str(tmp_path / "play.yml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.partition("CUSTOM STATS")[2].partition("RUN:")[2])
    assert told == {"image_puller": {"lines": ["- it was shown"]}}


def token_of_an_administrator(cluster: Cluster, namespace: str) -> str:
    """Of a ServiceAccount that is made for it, in a namespace that is there before the installation."""
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "serviceaccount", "platform", "-n", namespace)
    account = f"--serviceaccount={namespace}:platform"
    cluster.kubectl("create", "clusterrolebinding", f"platform-{namespace}", "--clusterrole=cluster-admin", account)
    return cluster.kubectl("create", "token", "platform", "-n", namespace, "--duration=1h").strip()


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The collection's repository as a project, and a credential for the cluster."""
    for reference in (JAVA, THEIA):
        cluster.push(reference)
    directory = tmp_path_factory.mktemp("job")
    (directory / "env").mkdir()
    (directory / "inventory").mkdir()
    (directory / "inventory" / "hosts").write_text("localhost\n")
    shutil.copytree(ROOT / "playbooks", directory / "project" / "playbooks")
    authority = directory / "ca.crt"
    (server,) = [each["cluster"] for each in yaml.safe_load(cluster.kubeconfig.read_text())["clusters"]]
    authority.write_bytes(base64.b64decode(server["certificate-authority-data"]))
    with new_namespace(cluster) as namespace:
        environment = {
            "PATH": f"{BUILD / 'platform' / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/proc/no-home",
            "ANSIBLE_HOME": str(directory / "ansible"),  # an execution environment's is /runner
            "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "collections"),
            "K8S_AUTH_HOST": server["server"],
            "K8S_AUTH_API_KEY": token_of_an_administrator(cluster, namespace),
            "K8S_AUTH_VERIFY_SSL": "True",
            "K8S_AUTH_SSL_CA_CERT": str(authority),
        }
        try:
            yield Platform(directory, namespace, environment)
        finally:
            cluster.kubectl("delete", "clusterrolebinding", f"platform-{namespace}")


def counts(artifact: dict[str, Any]) -> dict[str, int]:
    return {key: artifact["summary"][key] for key in ("images", "nodes", "cached", "failed")}


def test_the_templates_plan_install_check_tell_and_uninstall(cluster: Cluster, platform: Platform) -> None:
    """In the order of the workflow, and one after another on one installation, since each takes a while."""
    images = f"java11={JAVA}\r\ntheia={THEIA}\r\n"
    kubectl = Kubectl(cluster, platform.namespace)

    planned = platform.run("plan", images=images)
    assert planned.artifact["verdict"] in ("Fits", "Doubtful")
    assert not kubectl.list("daemonset")

    installed = platform.run("install", images=images, preflight="off")
    assert installed.artifact["verdict"] == "Healthy"
    assert counts(installed.artifact) == {"images": 2, "nodes": 2, "cached": 4, "failed": 0}
    assert "\x1b" not in installed.stdout, "off a terminal there are no colours"
    assert "java11     2      2" in installed.stdout

    again = platform.run("install", preflight="off")
    assert "changed=0" in again.stdout, "unanswered questions change nothing"

    told = platform.run("status")
    (main,) = told.artifact["sets"]
    assert [(image["name"], image["cached"]) for image in main["images"]] == [("java11", 2), ("theia", 2)]
    assert told.artifact["lines"][0].startswith("Healthy: ")

    cluster.kubectl("delete", "daemonset", DAEMONSET, "-n", platform.namespace)
    checked = platform.run("health_check", health_check_fail="true")
    assert checked.artifact["verdict"] == "Healthy"

    removed = platform.run("uninstall")
    assert not kubectl.list("daemonset")
    assert any("namespace" in line.lower() for line in removed.artifact["lines"]), removed.artifact


def test_a_job_that_fails_tells_why_in_its_artifact_and_shows_no_token(platform: Platform) -> None:
    failed = platform.run("install", ok=False, images=f"absent={ABSENT}", preflight="off")
    assert failed.artifact["verdict"] == "Degraded"
    (image,) = failed.artifact["sets"][0]["images"]
    assert image["class"] == "not_found"
    events = platform.directory / "artifacts"
    written = [path for path in events.rglob("*") if path.is_file() and path.name not in ("command", "env.list")]
    assert written
    assert not [path for path in written if platform.environment["K8S_AUTH_API_KEY"] in path.read_text()]
    platform.run("uninstall")


def test_a_job_that_waits_tells_how_far_it_is_in_its_log(cluster: Cluster, platform: Platform) -> None:
    """In the log that people look at, and in the event of the task, under which Automation Platform shows it."""
    cluster.push(SLOW, size_mb=60)
    cluster.registry_fault("runner-slow/", "slow", bytes_per_second=2_000_000)
    try:
        platform.run("install", images=f"slow={SLOW}", preflight="off")
    finally:
        cluster.registry_clear()
    (artifacts,) = (platform.directory / "artifacts").glob(f"{len(platform.jobs)}-*")
    line = re.compile(r"\[localhost\] \d+ s: \d of 2 cached on 2 nodes; ")
    log = (artifacts / "stdout").read_text()
    assert line.search(log), log
    events = [json.loads(path.read_text()) for path in (artifacts / "job_events").glob("*.json")]
    assert any(line.search(event["stdout"]) for event in events)
    platform.run("uninstall")


def test_an_answer_that_is_wrong_ends_the_job_with_one_sentence(platform: Platform) -> None:
    wrong = platform.run("install", ok=False, images=f"java11={JAVA}", caching_memory_limit="lots", preflight="off")
    assert "caching_memory_limit 'lots': it is no Kubernetes quantity" in wrong.stdout
