# SPDX-License-Identifier: GPL-3.0-or-later
"""An installation as files: the same for the same settings, in an order that kubectl keeps, and no file of others."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.groups import Plan, read_plan
from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import IMAGE, Installation
from ansible_collections.kubecache.image_puller.plugins.module_utils.installer import Choices, rendered
from ansible_collections.kubecache.image_puller.plugins.module_utils.lock import Locked, show_lock
from ansible_collections.kubecache.image_puller.plugins.module_utils.methods import METHODS
from ansible_collections.kubecache.image_puller.plugins.module_utils.module import run_here
from ansible_collections.kubecache.image_puller.plugins.module_utils.render import to_files, to_yaml, write
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import HELPER_IMAGE
from tests.running import module_arguments
from tests.unit import objects


def plan(groups: Any = None, **options: Any) -> Plan:
    return read_plan({"images": "java11=r.io/java11:1", "namespace": "puller", **options}, groups, "k8s-image-puller")


def kinds(made: list[dict[str, Any]]) -> list[str]:
    return [obj["kind"] for obj in made]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("controller", [True, False])
def test_the_daemonsets_are_written_where_no_controller_makes_them(method: str, controller: bool) -> None:
    two = plan([{"name": "gpu", "images": {"cuda": "r.io/cuda:12"}}])
    choices = Choices(install_method=method, controller=controller)
    if METHODS[method].operated and not controller:
        with pytest.raises(RuntimeError, match=f"install_method {method} runs a controller"):
            rendered(Installation(), two, choices)
        return
    made = rendered(Installation(), two, choices)
    assert kinds(made).count("DaemonSet") == (0 if controller else 2)
    assert "ClusterRoleBinding" in kinds(made) or not controller


@pytest.mark.parametrize(("method", "first"), [("operator", "CustomResourceDefinition"), ("olm", "OperatorGroup")])
def test_an_operator_gets_a_resource_and_nothing_that_it_keeps_itself(method: str, first: str) -> None:
    made = rendered(
        Installation(), plan([{"name": "gpu", "images": "cuda=r.io/cuda:12"}]), Choices(install_method=method)
    )
    (resource,) = [obj for obj in made if obj["kind"] == "KubernetesImagePuller"]
    assert resource["spec"] == {"images": "java11=r.io/java11:1", "priorityClassName": "image-puller-cache"}
    names = [(obj["kind"], obj["metadata"]["name"]) for obj in made]
    assert first in kinds(made)
    assert [name for kind, name in names if kind == "ConfigMap"] == ["k8s-image-puller-gpu"]
    assert not {("Deployment", "kubernetes-image-puller"), ("Role", "k8s-image-puller")} & set(names)


@pytest.mark.parametrize("text", ["a\x85b", "\u2028", "\U000a2b23\x85Q", "one\ntwo\u2029three", "1\x85"])
def test_line_breaks_of_other_alphabets_stay_what_they_are(text: str) -> None:
    assert yaml.safe_load(to_yaml({"text": text})) == {"text": text}


def test_a_resource_always_has_a_main_set() -> None:
    groups_alone = plan([{"name": "gpu", "images": "cuda=r.io/cuda:12"}], images=[])
    with pytest.raises(RuntimeError, match="images name no main set"):
        rendered(Installation(), groups_alone, Choices(install_method="operator"))


def test_what_is_refused_is_not_written() -> None:
    choices = Choices(create_namespace=False, create_priority_class=False, read_nodes=False)
    made = rendered(Installation(), plan(), choices)
    assert kinds(made) == ["ServiceAccount", "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "Deployment"]
    assert "PRIORITY_CLASS" not in made[1]["data"]
    assert kinds(rendered(Installation(), plan(priority_class_name="high"), Choices())).count("PriorityClass") == 0


@given(objects.good_options)
def test_the_files_say_what_the_objects_say(options: dict[str, Any]) -> None:
    made = rendered(Installation(), read_plan(options, None, "set"), Choices(controller=False))
    files = to_files(made)
    assert files == to_files(made)
    assert len(files) == len(made)
    read = [yaml.safe_load(text) for text in files.values()]
    assert sorted(map(str, read)) == sorted(map(str, made))
    names = list(files)
    assert names == sorted(names)
    assert names[0].startswith("10-namespace-")


@given(st.text())
def test_text_stays_text(text: str) -> None:
    assert yaml.safe_load(to_yaml({"text": text})) == {"text": text}


def test_what_other_parsers_take_for_a_number_stands_in_quotes() -> None:
    assert to_yaml({"memory": "1e3", "cpu": ".05", "tag": "0x1f"}) == "memory: '1e3'\ncpu: '.05'\ntag: '0x1f'\n"


def test_what_was_written_before_goes_and_what_others_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("kind: ConfigMap\n", encoding="utf-8")
    namespace, account, *_others = rendered(Installation(), plan(), Choices())
    assert [change.action for change in write(tmp_path, to_files([namespace, account]))] == ["created", "created"]
    changed = {**account, "description": "another"}
    rehearsed = write(tmp_path, to_files([changed]), dry_run=True)
    assert [change.action for change in rehearsed] == ["patched", "deleted"]
    before = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(before) == {"theirs.yaml", *to_files([namespace, account])}
    assert write(tmp_path, to_files([changed])) == rehearsed
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.yaml", *to_files([changed])}
    assert [change.action for change in write(tmp_path, to_files([changed]))] == ["none"]


def run_module(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """image_puller_install, whole, with a kubeconfig that is not there."""
    code = importlib.import_module("ansible_collections.kubecache.image_puller.plugins.modules.image_puller_install")
    with module_arguments({"kubeconfig": "/nowhere", "_ansible_diff": True, **options}), pytest.raises(SystemExit):
        code.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_module_asks_no_cluster_and_tells_of_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"images": {"java11": "r.io/java11:1"}, "render": str(tmp_path / "new")}
    rehearsed = run_module(capsys, **options, _ansible_check_mode=True)
    assert rehearsed["changed"]
    assert not (tmp_path / "new").exists()
    written = run_module(capsys, **options)
    assert written["objects"] == rehearsed["objects"]
    for told, diff in zip(written["objects"], written["diff"], strict=True):
        assert (told["kind"], told["action"], diff["before"]) == ("File", "created", "")
        assert diff["after"] == Path(told["name"]).read_text(encoding="utf-8")
    assert not run_module(capsys, **options)["changed"]


@pytest.mark.parametrize("rendering", [True, False])
def test_a_lock_that_the_controller_works_against_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rendering: bool
) -> None:
    """Of files, and of a cluster, before anything is done there: looking for classes comes next."""
    code = importlib.import_module("ansible_collections.kubecache.image_puller.plugins.modules.image_puller_install")
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    monkeypatch.setattr(code, "run", lambda module, work: run_here(module, lambda: work(object())))
    monkeypatch.setattr(code, "is_openshift", lambda _cluster: False)
    monkeypatch.setattr(code, "config_maps", lambda *_: {})
    monkeypatch.setattr(code, "require_classes", mock.Mock(side_effect=RuntimeError("until here")))
    wanted = [("cache", "java11", "r.io/java11:1"), ("helper", "helper", HELPER_IMAGE)]
    locks = {True: [*wanted, ("controller", "controller", IMAGE)], False: wanted}
    options = {"images": "java11=r.io/java11:1", **({"render": str(tmp_path / "files")} if rendering else {})}
    for controller, images in locks.items():
        lock = tmp_path / f"{controller}.lock.yml"
        lock.write_text(show_lock(Locked(*one, f"sha256:{'0' * 64}", {}, 1, "2026-01-01T00:00:00Z") for one in images))
        for refresh in ("digest", "never"):
            warnings.clear()
            told = run_module(capsys, refresh=refresh, lock=str(lock), controller=controller, **options)
            assert told.get("msg") == (None if rendering else "until here")
            wrong = [text for text in warnings if "the controller does not know of the lock" in text]
            assert len(wrong) == (controller and refresh == "digest")


def test_what_can_not_be_written_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    failed = run_module(capsys, images="java11=r.io/java11:1", render=str(tmp_path / "file" / "below"))
    assert failed["msg"].startswith("The files can't be written: ")
    assert str(tmp_path / "file" / "below") in failed["msg"]
    refused = run_module(capsys, render=str(tmp_path), state="absent")
    assert refused["msg"] == ("render writes the objects of an installation. Leave it out, or let state be present")
    assert run_module(capsys, images="java11", render=str(tmp_path))["msg"].startswith("The settings have 1 problem")


def test_without_pyyaml_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(RuntimeError, match=r"The Python library PyYAML is missing for .* -m pip install PyYAML, or"):
        to_yaml({})
