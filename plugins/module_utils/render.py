# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as files for a Git repository or ``kubectl apply -f``: one an object, deterministic to the byte."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.cluster import Change

HEADER = "---\n# Written by kubecache.image_puller; what is changed here goes when it is written again.\n"
# kubectl applies files by their names: what others need comes first, what belongs to no kind here last.
_ORDER = (
    ("Namespace", "CustomResourceDefinition"),
    ("PriorityClass", "ServiceAccount", "ClusterRole", "Role"),
    ("ClusterRoleBinding", "RoleBinding", "ConfigMap"),
    ("Deployment", "DaemonSet", "OperatorGroup"),
    ("Subscription",),
)
# What YAML 1.1 takes for line breaks, and makes others of.
_OTHER_BREAKS = set("\x85\u2028\u2029")


def to_yaml(obj: Mapping[str, Any]) -> str:
    """One object as YAML, in the order of its keys. Raises RuntimeError without PyYAML."""
    try:
        import yaml  # Here, since the controller shares this directory and does without.
    except ImportError:
        raise RuntimeError(
            f"The Python library PyYAML is missing for {sys.executable}. Install it with: {sys.executable} -m pip "
            "install PyYAML, or choose another Python with ansible_python_interpreter."
        ) from None

    class Dumper(yaml.SafeDumper):
        """No anchors, lists one step in, lines of a text as lines, and quotes around what some parsers take for a
        number (PyYAML not: 1e3).
        """

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        quoted = value[:1] in set("+-.0123456789")
        style = "|" if "\n" in value else "'" if quoted else None
        if _OTHER_BREAKS & set(value):
            style = '"'  # Which alone keeps them as they are.
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    made: str = yaml.dump(obj, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
    return made


def to_files(objects: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The objects by the names of their files, in the order in which kubectl applies them."""
    made = {_file_name(obj): HEADER + to_yaml(obj) for obj in objects}
    return dict(sorted(made.items()))


def write(directory: Path, files: Mapping[str, str], *, dry_run: bool = False) -> list[Change]:
    """Bring the directory to these files; of others only those go that were written by us before.

    Raises OSError.
    """
    there = {path.name: path for path in sorted(directory.glob("*.yaml"))} if directory.is_dir() else {}
    before = {name: path.read_text(encoding="utf-8") for name, path in there.items()}
    changes = [_written(directory / name, before.get(name), text) for name, text in files.items()]
    gone = [name for name, text in before.items() if name not in files and text.startswith(HEADER)]
    changes += [Change("deleted", "File", str(directory / name), {"text": before[name]}) for name in gone]
    if not dry_run:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            if before.get(name) != text:
                (directory / name).write_text(text, encoding="utf-8")
        for name in gone:
            there[name].unlink()
    return changes


def _written(path: Path, before: str | None, text: str) -> Change:
    action = "none" if before == text else "created" if before is None else "patched"
    return Change(action, "File", str(path), {} if before is None else {"text": before}, {"text": text})


def _file_name(obj: Mapping[str, Any]) -> str:
    kind, name = obj["kind"], obj["metadata"]["name"]
    number = next((i for i, kinds in enumerate(_ORDER, 1) if kind in kinds), len(_ORDER) + 1)
    return f"{number}0-{kind.lower()}-{name.replace(':', '-')}.yaml"
