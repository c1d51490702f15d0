# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every image on every node in little space: what repeats is said once, and the cells are numbers.

20 images on 5,000 nodes are 100,000 rows. As rows of image_puller_info they are tens of megabytes; as one text of this
form they fit into the result of a task.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from operator import attrgetter, itemgetter
from typing import Any

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import Report
from ansible_collections.kubecache.image_puller.plugins.module_utils.witnesses import Row

# What many cells have in common; the rest of a row is its place, when, and for how long.
STORY = ("state", "class", "held", "reason", "message", "digest", "size")
STATE = STORY.index("state")
CLASS = STORY.index("class")
MESSAGE = STORY.index("message")
DIGEST = STORY.index("digest")
SIZE = STORY.index("size")
MOST_STORIES = 1000
LONGEST_MESSAGE = 600
LEFT_OUT = "left out: there are too many different messages here; image_puller_info tells the one of this node"


@dataclass(frozen=True)
class Matrix:
    """``images`` are name and reference. ``cells``, ``since`` and ``seconds`` have a list for each image with an entry
    for each node: an index of ``stories`` (-1: nobody told), whole seconds after ``begin`` (itself in seconds after
    1970) or None, seconds that the pull took or None, failed tries. ``excused`` and ``skipped`` map a node to why.
    """

    nodes: Sequence[str] = ()
    images: Sequence[Sequence[str]] = ()
    stories: Sequence[Sequence[Any]] = ()
    begin: int = 0
    cells: Sequence[Sequence[int]] = ()
    since: Sequence[Sequence[int | None]] = ()
    seconds: Sequence[Sequence[float | None]] = ()
    tries: Sequence[Sequence[int]] = ()
    excused: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it; ``Matrix(**...)`` reads it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as image_puller_info returns them, node by node; none where nobody told."""
        for n, node in enumerate(self.nodes):
            for i, (name, image) in enumerate(self.images):
                if self.cells[i][n] < 0:
                    continue
                since = self.since[i][n]
                yield {
                    "node": node,
                    "name": name,
                    "image": image,
                    **dict(zip(STORY, self.stories[self.cells[i][n]], strict=True)),
                    "since": time_of(self.begin + since) if since is not None else None,
                    "pull_seconds": self.seconds[i][n],
                    "tries": self.tries[i][n],
                }


def from_rows(
    rows: Iterable[Row | Mapping[str, Any]],
    images: Iterable[tuple[str, str]] = (),
    nodes: Iterable[str] = (),
    excused: Mapping[str, str] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Matrix:
    """The matrix of these rows.

    :param rows: a report's rows, or those that a module returned.
    :param images: name and reference of the images in their order, also of those without a row.
    :param nodes: the nodes in their order, also those without a row.
    :param excused: nodes among them that do not count now, with the reason.
    :param skipped: other nodes, with the reason.
    """
    told = [_parts(row) for row in rows]
    names = list(dict.fromkeys([*images, *(image for _node, image, *_rest in told)]))
    places = {node: n for n, node in enumerate(dict.fromkeys([*nodes, *(node for node, *_rest in told)]))}
    columns = {image: i for i, image in enumerate(names)}
    stories: dict[tuple[Any, ...], int] = {}
    cells = [[-1] * len(places) for _image in names]
    begins = {text: seconds_of(text) for text in {part[3] for part in told if part[3]}}
    begin = min((second for second in begins.values() if second is not None), default=0)
    since: list[list[int | None]] = [[None] * len(places) for _image in names]
    seconds: list[list[float | None]] = [[None] * len(places) for _image in names]
    tries = [[0] * len(places) for _image in names]
    for node, image, story, begun, took, tried in told:
        n, i = places[node], columns[image]
        cells[i][n] = _story_index(stories, story)
        second = begins.get(begun) if begun else None
        since[i][n] = second - begin if second is not None else None
        seconds[i][n], tries[i][n] = took, tried
    return Matrix(
        list(places),
        [list(name) for name in names],
        list(map(list, stories)),
        begin,
        cells,
        since,
        seconds,
        tries,
        dict(excused or {}),
        dict(skipped or {}),
    )


def seconds_of(time: str) -> int | None:
    """Whole seconds since 1970 of a time in RFC 3339; None for any other text."""
    try:
        read = datetime.fromisoformat(time.replace("Z", "+00:00"))
    except ValueError:
        return None
    return int((read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp())


def time_of(seconds: int) -> str:
    """The time in RFC 3339."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


_PLACE = ("node", "name", "image", "since", "pull_seconds", "tries")
_PLACE_OF_ROW, _PLACE_OF_MAPPING = attrgetter(*_PLACE), itemgetter(*_PLACE)
_STORY_OF_ROW = attrgetter(*(f"{key}_" if key == "class" else key for key in STORY))
_STORY_OF_MAPPING = itemgetter(*STORY)


def _parts(row: Row | Mapping[str, Any]) -> tuple[str, tuple[str, str], tuple[Any, ...], str | None, float | None, int]:
    if isinstance(row, Row):
        (node, name, image, since, seconds, tries), story = _PLACE_OF_ROW(row), _STORY_OF_ROW(row)
    else:
        (node, name, image, since, seconds, tries), story = _PLACE_OF_MAPPING(row), _STORY_OF_MAPPING(row)
    return node, (name, image), story, since, seconds, tries


def _story_index(stories: dict[tuple[Any, ...], int], story: tuple[Any, ...]) -> int:
    message, *rest = story[MESSAGE:]
    if message and len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 3] + "..."
    told = (*story[:MESSAGE], message, *rest)
    if message and told not in stories and len(stories) >= MOST_STORIES:
        told = (*story[:MESSAGE], LEFT_OUT, *rest)
    return stories.setdefault(told, len(stories))


def in_short(report: Report) -> dict[str, Any]:
    """The report as the modules return it, with ``matrix`` in the place of nodes and rows."""
    images = ((image.name, image.image) for image in report.images)
    matrix = from_rows(report.rows, images, report.nodes, report.excused, report.skipped)
    return {**report.as_dict("summary"), "matrix": pack(matrix)}


def pack(matrix: Matrix) -> str:
    """One short text of ASCII, so that a task's result does not grow by a list for each node."""
    return base64.b64encode(zlib.compress(json.dumps(matrix.as_dict(), separators=(",", ":")).encode())).decode()


def unpack(text: str) -> Matrix:
    """What was packed; ValueError for any other text."""
    try:
        return Matrix(**json.loads(zlib.decompress(base64.b64decode(text, validate=True))))
    except (TypeError, zlib.error) as error:
        raise ValueError(f"this is no matrix: {error}") from None
