# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a report on the control node; documented in plugins/modules/image_puller_report.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.kubecache.image_puller.plugins.module_utils.installation import VERSION
from ansible_collections.kubecache.image_puller.plugins.module_utils.page import to_html
from ansible_collections.kubecache.image_puller.plugins.module_utils.report import (
    document,
    read,
    to_json,
    to_prometheus,
)

FORMS: dict[str, Callable[[Mapping[str, Any]], str]] = {".html": to_html, ".json": to_json, ".prom": to_prometheus}
COMPARABLE = (".html", ".json")
ARGUMENTS: dict[str, Any] = {
    "report": {"type": "dict", "required": True},
    "path": {"type": "list", "elements": "path", "required": True},
    "since": {"type": "path"},
    "required": {"type": "bool", "default": True},
    "notes": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    """Writes files on the control node, and asks no host."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write ``report`` to each ``path``; the result lists the ``paths`` that were written."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(ARGUMENTS)
        paths = [Path(path) for path in options["path"] if Path(path).suffix in FORMS]
        problems = [f"path: {sentence}" for sentence in wrong_names(options["path"])]
        try:
            told = document(
                options["report"],
                time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                version=VERSION,
                notes=options["notes"],
                former=_former(options["since"], paths),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AnsibleActionFail(
                f"report: this is no complete result of kubecache.image_puller.image_puller_info: {error}"
            ) from None
        written = []
        for path in paths:
            try:
                _write(path, FORMS[path.suffix](told), dry_run=self._task.check_mode)
                written.append(str(path))
            except OSError as error:
                problems.append(f"The report can't be written to {path} on the control node: {_reason(path, error)}.")
        for problem in problems if not options["required"] else ():
            Display().warning(problem)
        failure = {"failed": True, "msg": " ".join(problems)} if problems and options["required"] else {}
        return {"changed": bool(written), "paths": written, **failure}


def wrong_names(paths: Iterable[str]) -> list[str]:
    """A sentence for each file whose name does not say in which form it is to be."""
    ends = ", ".join(FORMS)
    wrong = [path for path in paths if Path(path).suffix not in FORMS]
    return [f"the form of {path} is not known; its name must end in {ends}." for path in wrong]


def _former(since: str | None, paths: list[Path]) -> dict[str, Any] | None:
    """The report to compare with: the one that was named, else the one that is about to be replaced."""
    candidates = [Path(since)] if since else [path for path in paths if path.suffix in COMPARABLE and path.is_file()]
    for path in candidates[:1]:
        try:
            return read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            Display().warning(f"The report says nothing of changes since {path}: {_reason(path, error)}.")
    return None


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return f"the directory {path.parent} does not exist; make it, or name another"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _write(path: Path, text: str, *, dry_run: bool) -> None:
    """In one step, so that whoever reads meanwhile sees the former file or the new one; OSError if it can't be."""
    target = path.resolve()
    if dry_run:
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise FileNotFoundError if not target.parent.is_dir() else PermissionError("the directory is not writable")
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
