# SPDX-License-Identifier: GPL-3.0-or-later
"""What /metrics tells. No label grows with the number of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import VERDICTS
from controller.digest import Digest

_SET = "image_set"
_SECONDS = (0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)


class Metrics(Collector):
    """The controller's metrics, in a registry of their own; those of judgements are those of the last one."""

    def __init__(self) -> None:
        made = self.registry = CollectorRegistry()
        ProcessCollector(registry=made)
        self.digests: dict[str, Digest] = {}
        self.actions = Counter("image_puller_actions", "Actions on DaemonSets", [_SET, "action"], registry=made)
        self.errors = Counter("image_puller_errors", "Passes that ended with an error", [_SET], registry=made)
        self.api_errors = _api_errors(made)
        self.passes = Histogram("image_puller_reconcile_duration_seconds", "One pass", buckets=_SECONDS, registry=made)
        self.judged = Histogram(
            "image_puller_judgement_duration_seconds", "One judgement", buckets=_SECONDS, registry=made
        )
        self.delay = Histogram(
            "image_puller_loop_delay_seconds",
            "From a change to the pass for it",
            buckets=_SECONDS,
            registry=made,
        )
        self.longest_delay = Gauge(
            "image_puller_loop_longest_delay_seconds",
            "The longest of these delays since the start",
            registry=made,
        )
        self.problems = Gauge("image_puller_settings_problems", "Problems in the settings", [_SET], registry=made)
        self.paused_until = Gauge(
            "image_puller_paused_until_timestamp_seconds",
            "Until when the guard lets the DaemonSet not be made anew or put right; 0 where it does",
            [_SET],
            registry=made,
        )
        self.roll_stopped = Gauge("image_puller_roll_stopped", "1 while a roll is stopped", [_SET], registry=made)
        self.tags_unknown = Gauge(
            "image_puller_tags_unknown",
            "Tags that nodes hold, and of which no registry tells what they stand for",
            [_SET],
            registry=made,
        )
        self._last_sync = Gauge(
            "image_puller_last_successful_sync_timestamp_seconds",
            "When the DaemonSet was last found or made as it should be",
            [_SET],
            registry=made,
        )
        self.registry.register(self)

    def synced(self, image_set: str, at: datetime) -> None:
        """A pass has ended well."""
        self._last_sync.labels(image_set).set(at.timestamp())

    def delayed(self, seconds: float, longest: list[float]) -> None:
        """A pass began so long after what it is for; ``longest`` keeps the record."""
        self.delay.observe(seconds)
        longest[0] = max(longest[0], seconds)
        self.longest_delay.set(longest[0])

    def forget(self, image_set: str) -> None:
        """The set is gone."""
        self.digests.pop(image_set, None)
        for gauge in (self.problems, self.paused_until, self.roll_stopped, self.tags_unknown, self._last_sync):
            gauge.remove_by_labels({_SET: image_set})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The last judgements, when somebody asks."""
        digests = dict(self.digests)
        yield _family(
            "verdict",
            "1 for the verdict of the last judgement",
            ["verdict"],
            {(name, v): float(v == digest.verdict) for name, digest in digests.items() for v in VERDICTS},
        )
        yield _family(
            "images",
            "Images on nodes, by state",
            ["state"],
            {(name, state): count for name, digest in digests.items() for state, count in digest.states.items()},
        )
        yield _family(
            "nodes",
            "Nodes: complete and incomplete are those that count",
            ["state"],
            {(name, state): count for name, digest in digests.items() for state, count in digest.nodes.items()},
        )
        yield _family(
            "image_pulling_nodes",
            "Nodes that pull an image now",
            ["name"],
            {(name, image): count for name, digest in digests.items() for image, count in digest.pulling.items()},
        )
        yield _family(
            "image_failed_nodes",
            "Nodes on which an image fails, by class",
            ["name", "class"],
            {
                (name, image, class_): count
                for name, digest in digests.items()
                for image, classes in digest.failed.items()
                for class_, count in classes.items()
            },
        )


class OperatorMetrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        made = self.registry = CollectorRegistry()
        ProcessCollector(registry=made)
        self.api_errors = _api_errors(made)
        self.actions = Counter(
            "image_puller_operator_actions", "Writes, by kind and action", ["kind", "action"], registry=made
        )
        self.errors = Counter("image_puller_operator_errors", "Passes that ended with an error", registry=made)
        self.passes = Histogram(
            "image_puller_operator_reconcile_duration_seconds", "One pass", buckets=_SECONDS, registry=made
        )
        self.namespaces = Gauge("image_puller_operator_namespaces", "Namespaces with a resource", registry=made)


def _api_errors(registry: CollectorRegistry) -> Counter:
    return Counter(
        "image_puller_api_errors",
        "Requests that failed, by verb and HTTP status; status 0: no answer",
        ["verb", "status"],
        registry=registry,
    )


def _family(
    name: str, documentation: str, labels: list[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"image_puller_{name}", documentation, labels=[_SET, *labels])
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
