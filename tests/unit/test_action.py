# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the control node: a wait in slices as one result, a look at variables, a report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.action import image_puller_daemonset as action
from ansible_collections.kubecache.image_puller.plugins.action import (
    image_puller_report,
    image_puller_validate_variables,
)
from ansible_collections.kubecache.image_puller.plugins.action.image_puller_daemonset import ActionModule, joined


def _answer(action: str = "none", cached: int = 0, **more: Any) -> dict[str, Any]:
    """What the module returns, in short."""
    reasons = [f"it was {action}"] if action != "none" else []
    set_ = {"config_map_name": "main", "action": action, "reasons": reasons, "summary": {"cached": cached}}
    told = {"changed": action != "none", "action": action, "reasons": reasons, "summary": {"cached": cached}}
    return {**told, "sets": [set_], "diff": [action] if reasons else [], "warnings": [], **more}


def test_the_first_slice_is_the_result_of_a_wait_that_needs_no_other() -> None:
    assert joined({}, _answer("created", 1)) == _answer("created", 1)


def test_what_any_slice_did_is_kept_and_how_things_are_is_what_the_last_one_saw() -> None:
    told = joined(_answer("created", invocation={"wait": True}), _answer(cached=4, invocation={"wait_slice": {}}))
    assert (told["changed"], told["action"], told["reasons"]) == (True, "created", ["it was created"])
    assert (told["diff"], told["summary"], told["invocation"]) == (["created"], {"cached": 4}, {"wait": True})
    (set_,) = told["sets"]
    assert (set_["action"], set_["reasons"], set_["summary"]) == ("created", ["it was created"], {"cached": 4})


def test_the_stronger_action_has_the_word_and_nothing_is_told_twice() -> None:
    told = joined(_answer("patched", warnings=["w"]), _answer("recreated", warnings=["w", "x"]))
    assert (told["action"], told["reasons"]) == ("recreated", ["it was patched", "it was recreated"])
    assert told["warnings"] == ["w", "x"]


def test_a_slice_that_fails_keeps_its_message_and_what_was_done_before() -> None:
    failure = {"failed": True, "msg": "could not list Pods"}
    told = joined(_answer("created"), failure)
    assert (told["failed"], told["msg"], told["changed"], told["action"]) == (True, failure["msg"], True, "created")


class Slices(ActionModule):
    """A wait whose slices are answered so, one after another."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.lines: list[str] = []

    def _execute_module(self, name: str, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.asked.append(arguments["wait_slice"])
        return self.answers.pop(0)

    def _tell(self, line: str) -> None:
        self.lines.append(line.partition(": ")[2])


def _following(progress: str) -> dict[str, Any]:
    return {"wait_slice": {"seconds": 5.0, "waited": 5.0, "unknown": {"java11": ["node-1", 2]}, "progress": progress}}


def test_a_slice_in_which_nobody_answers_is_tried_again_with_what_it_had_to_remember(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(action, "PAUSE", 0.0)
    away = [{"failed": True, "msg": "nobody answers", **_following("nobody answers")} for _ in range(2)]
    slices = Slices(_answer("created") | _following("1 of 2"), *away, _answer(cached=2))
    told = slices._wait({"wait": True}, {})
    assert (told["action"], told["summary"]) == ("created", {"cached": 2})
    assert "failed" not in told
    assert slices.lines == ["1 of 2", "nobody answers"]
    assert [asked.get("unknown") for asked in slices.asked] == [None, *[{"java11": ["node-1", 2]}] * 3]


def test_a_slice_that_fails_for_good_ends_the_wait() -> None:
    slices = Slices(_answer("created") | _following("1 of 2"), {"failed": True, "msg": "forbidden"})
    told = slices._wait({"wait": True}, {})
    assert (told["failed"], told["msg"], told["action"]) == (True, "forbidden", "created")


def run_plugin(plugin: Any, **arguments: Any) -> dict[str, Any]:
    """An action plugin, whole, as a task runs it."""
    task = SimpleNamespace(args=arguments, action=plugin.__name__, async_val=0, check_mode=False)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
    result: dict[str, Any] = plugin.ActionModule(task, connection, None, None, None, None).run(task_vars={})
    return result


def test_values_that_would_be_found_wrong_too_late_are_refused_together() -> None:
    given: dict[str, Any] = {"switches": {"image_puller_wait": "ture"}, "report": "state.htm, state.json"}
    refused = run_plugin(image_puller_validate_variables, known=["image_puller_wait"], **given)
    assert refused["failed"]
    assert refused["msg"] == (
        "image_puller_wait 'ture': it is neither true nor false. Remedy: write true or false. "
        "image_puller_report: the form of state.htm is not known; its name must end in .html, .json, .prom."
    )
    assert "failed" not in run_plugin(image_puller_validate_variables, known=["image_puller_wait"])


@pytest.mark.parametrize("required", [True, False])
def test_a_report_of_no_known_form_keeps_no_other_from_being_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: bool
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(image_puller_report, "Display", lambda: SimpleNamespace(warning=warnings.append))
    monkeypatch.setattr(image_puller_report, "document", lambda *_arguments, **_options: {})
    monkeypatch.setitem(image_puller_report.FORMS, ".json", lambda _told: "{}")
    good, bad = tmp_path / "state.json", tmp_path / "state.htm"
    told = run_plugin(image_puller_report, report={"sets": []}, path=[str(bad), str(good)], required=required)
    sentence = f"path: the form of {bad} is not known; its name must end in .html, .json, .prom."
    assert (told["paths"], good.read_text(), bad.exists()) == ([str(good)], "{}", False)
    assert (told.get("failed", False), told.get("msg"), warnings) == (
        (True, sentence, []) if required else (False, None, [sentence])
    )
