# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to look before an installation: 20 images that share 10 layers, at a registry 50 ms away.

    make bench-preflight [ARGS="--runs 5"]

The registry is a real one, behind a front that answers each request 50 ms late; the nodes are simulated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import from_options, require
from ansible_collections.kubecache.image_puller.plugins.module_utils.survey import preflight
from tests.benchmarks.measuring import api_of, running
from tests.cluster import Cluster, images

IMAGES, SHARED, NODES, LATENCY, GOAL = 20, 10, 50, 0.05, 3.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with running("bench-plan", nodes=0, simulated=NODES) as cluster:
        measure(cluster, runs)


def measure(cluster: Cluster, runs: int) -> None:
    """Print the median of so many plans on a cluster that is up."""
    names = {f"image-{number}": push(cluster, f"bench/image-{number}:1") for number in range(IMAGES)}
    settings = require(from_options({"images": names, "helper_image": names["image-0"]}))
    options = {"registry_insecure": [f"http://{cluster.registry}"]}
    api = api_of(cluster)
    cluster.registry_fault("bench/", "delay", seconds=LATENCY)
    seconds, requests = [], 0
    for _ in range(runs):
        begun, start = time.time(), time.perf_counter()
        found = preflight(api, [settings], options)
        seconds.append(time.perf_counter() - start)
        requests = len(cluster.registry_requests(begun))
        states = [row["state"] for row in found["images"] if row["use"] == "cache"]
        assert states == ["found"] * IMAGES, states
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    distance = f"a registry {LATENCY * 1000:.0f} ms away"
    print(f"\nA plan of {IMAGES} images with {SHARED} shared layers, {NODES} nodes, {distance}")
    print(f"  median of {runs}: {statistics.median(seconds):.2f} s ({spread}; goal: at most {GOAL:.0f})")
    print(f"  requests to the registry: {requests}")


def push(cluster: Cluster, name: str) -> str:
    """Push an image of the shared layers and one of its own; its reference."""
    shared, own = images.build({}, size_mb=1, layers=SHARED, seed="shared"), images.build({}, size_mb=0.1, seed=name)
    layers = (*shared.layers, *own.layers)
    config = json.dumps({"architecture": images.MACHINE, "os": "linux", "name": name}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": {"mediaType": images.CONFIG, "size": len(config), "digest": images.digest(config)},
        "layers": [{"mediaType": images.LAYER, "size": len(b), "digest": images.digest(b)} for b in layers],
    }
    reference = f"{cluster.registry}/{name}"
    made = images.Image(images.MACHINE, layers, config, json.dumps(manifest).encode())
    images.push(cluster.connect_registry, made, reference)
    return reference


if __name__ == "__main__":
    main()
