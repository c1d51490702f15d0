# SPDX-License-Identifier: GPL-3.0-or-later
"""What /metrics tells. No label grows with the number of nodes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from ansible_collections.kubecache.image_puller.plugins.module_utils.health import STATES, VERDICTS, Report


class Metrics:
    """The controller's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.actions = Counter("image_puller_actions", "Actions on the DaemonSet", ["action"], registry=self.registry)
        self.errors = Counter("image_puller_errors", "Passes that ended with an error", registry=self.registry)
        self.last_sync = Gauge(
            "image_puller_last_successful_sync_timestamp_seconds",
            "When the DaemonSet was last found or made as it should be",
            registry=self.registry,
        )
        self.problems = Gauge(
            "image_puller_settings_problems", "Problems in the settings of the ConfigMap", registry=self.registry
        )
        self._verdict = Gauge(
            "image_puller_verdict", "1 for the verdict of the last health check", ["verdict"], registry=self.registry
        )
        self._images = Gauge(
            "image_puller_images",
            "Images on nodes by state, at the last health check",
            ["state"],
            registry=self.registry,
        )

    def report(self, report: Report) -> None:
        """Take over what a health check found."""
        summary = report.as_dict()["summary"]
        for verdict in VERDICTS:
            self._verdict.labels(verdict).set(verdict == report.verdict)
        for state in STATES:
            self._images.labels(state).set(summary[state])
