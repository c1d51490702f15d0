# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``oc process`` does, on any cluster and without one: a Template and parameters become objects. Pure.

The rules are those of OpenShift's documentation, "Writing templates": ``${NAME}`` inside of a text, in keys too, is
replaced by the parameter's text; a text that is exactly ``${{NAME}}`` by its value, read as JSON; a reference to a
parameter that the Template does not have stays as it is.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import InvalidSettings, Problem

_TEXT = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
_WHOLE = re.compile(r"\$\{\{([A-Za-z0-9_]+)\}\}")
_PART = re.compile(r"\[([^\]]+)\]\{([0-9]+)\}")
_RANGE = re.compile(r"\\([waAd])|(.)-(.)|(.)")
_LONGEST = 255  # Characters that one part of an expression may generate.
_CLASSES = {
    "w": string.ascii_letters + string.digits + "_",
    "a": string.ascii_letters + string.digits,
    "d": string.digits,
    "A": "~!@#$%^&*()-_+={}[]\\|<,>.?/\"';:`",
}


def process(
    template: Mapping[str, Any],
    parameters: Mapping[str, str],
    *,
    choose: Callable[[str], str] = secrets.choice,
) -> list[dict[str, Any]]:
    """The objects of a Template, in its order, with its labels on each.

    A namespace that the Template writes down is left out, so that the objects go where they are applied.

    :param parameters: as given with ``-p NAME=VALUE``; what is not given has the Template's value, or a generated one.
    :param choose: takes one of these characters, for generated values.
    :raises InvalidSettings: with every problem of the parameters, and nothing is made.
    """
    declared = {parameter["name"]: parameter for parameter in template.get("parameters") or ()}
    values, problems = _values(declared, parameters, choose)
    filler = _Filler(values)
    labels = template.get("labels") or {}
    made = [filler.fill(_placed(obj, labels)) for obj in template.get("objects") or ()]
    problems += filler.problems
    if problems:
        raise InvalidSettings(list(dict.fromkeys(problems)))
    return made


def _placed(obj: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    data = dict(obj.get("metadata") or {})
    if not _TEXT.search(str(data.get("namespace", ""))):
        data.pop("namespace", None)
    if labels:
        data["labels"] = {**(data.get("labels") or {}), **labels}
    return {**obj, "metadata": data}


def _values(
    declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, str], choose: Callable[[str], str]
) -> tuple[dict[str, str], list[Problem]]:
    """The value of each parameter, and what is wrong with what was given."""
    known = f"name one of {', '.join(declared)}" if declared else "give none"
    problems = [
        Problem(name, given[name], "the Template has no such parameter", known)
        for name in given
        if name not in declared
    ]
    values = {}
    for name, parameter in declared.items():
        value = given.get(name, parameter.get("value") or "")
        if not value and parameter.get("generate"):
            try:
                value = _generated(parameter, choose)
            except ValueError as error:
                problems.append(Problem(name, str(parameter.get("from", "")), str(error), "correct the Template"))
        elif not value and parameter.get("required"):
            problems.append(Problem(name, "", "the Template requires it", f"give it, with -p {name}=VALUE"))
        values[name] = value
    return values, problems


def _generated(parameter: Mapping[str, Any], choose: Callable[[str], str]) -> str:
    """A value from an expression as ``[a-z0-9]{8}``; ValueError says what is wrong with it."""
    if parameter["generate"] != "expression":
        raise ValueError(f"there is no generator {parameter['generate']!r}, only 'expression'")

    def part(match: re.Match[str]) -> str:
        count, characters = int(match[2]), "".join(_characters(match[1]))
        if not 0 < count <= _LONGEST:
            raise ValueError(f"it generates {count} characters, and 1 to {_LONGEST} are allowed")
        return "".join(choose(characters) for _number in range(count))

    text, parts = _PART.subn(part, str(parameter.get("from", "")))
    if not parts:
        raise ValueError("it generates nothing: no part is like [a-z0-9]{8}")
    return text


def _characters(expression: str) -> Iterator[str]:
    for match in _RANGE.finditer(expression):
        class_, first, last, single = match.groups()
        if first and first > last:
            raise ValueError(f"the range {match[0]} is empty")
        yield _CLASSES[class_] if class_ else single or "".join(map(chr, range(ord(first), ord(last) + 1)))


class _Filler:
    """Puts values in the place of references; collects what can't be put there."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.problems: list[Problem] = []

    def fill(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._text(name): self.fill(inner) for name, inner in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [self.fill(inner) for inner in value]
        if not isinstance(value, str):
            return value
        whole = _WHOLE.fullmatch(value)
        return self._json(whole[1]) if whole and whole[1] in self.values else self._text(value)

    def _text(self, text: str) -> str:
        # In one go, so that a value that looks like a reference is none.
        return _TEXT.sub(lambda match: self.values.get(match[1], match[0]), text)

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self.values[name])
        except ValueError:
            what = "it is no JSON, and the Template does not take it as text"
            remedy = 'write JSON, for example 2, true or ["a"]; a text in double quotes'
            self.problems.append(Problem(name, self.values[name], what, remedy))
            return None
