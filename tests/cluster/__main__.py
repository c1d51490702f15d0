# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, use and end a Kubernetes cluster for tests."""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import subprocess
import sys

from . import Cluster, ClusterError, images, leftovers, open_cluster, tools

EPILOG = """\
IMAGE_PULLER_TEST_CLUSTER chooses the cluster: embedded (default: processes of this machine; real nodes need root),
kind, or the path of a kubeconfig. A KUBECONFIG in the environment is never used.
"""


def main() -> int:
    """Run one command; its exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as `| head` expects
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except (ClusterError, tools.ToolError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="of the cluster (default: default); several can run at once")

    up = commands.add_parser("up", parents=[named], help="start the cluster and wait until pods can start")
    real = 2 if os.geteuid() == 0 else 0
    up.add_argument("--nodes", type=int, default=real, metavar="N", help=f"real nodes, for root (default here: {real})")
    up.add_argument("--simulated", type=int, default=0, metavar="N", help="nodes without a machine (default: 0)")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", parents=[named], help="end the cluster and remove all that it made")
    down.set_defaults(run=lambda given: _open(given).down())

    status = commands.add_parser("status", parents=[named], help="say whether the cluster is up, and list its nodes")
    status.set_defaults(run=_status)

    kubeconfig = commands.add_parser("kubeconfig", parents=[named], help="print the path of the cluster's kubeconfig")
    kubeconfig.set_defaults(run=lambda given: print(_running(given).kubeconfig))

    shell = commands.add_parser(
        "shell", parents=[named], help="run a command, or a shell, in the cluster's network with KUBECONFIG set"
    )
    shell.add_argument("argv", nargs="*", metavar="CMD", help="after --; default: your shell")
    shell.set_defaults(run=_shell)

    push = commands.add_parser("push", parents=[named], help="make an image and push it to the cluster's registry")
    push.add_argument("ref", help="such as quay.io/team/app:1; the registry's name is left out, mirrors find it")
    push.add_argument("--size", type=float, default=0, metavar="MB", help="megabytes that don't compress (default: 0)")
    push.add_argument("--layers", type=int, default=1, metavar="N", help="in so many layers (default: 1)")
    push.add_argument("--user", default="", help="user that the image names")
    push.add_argument("--architecture", default=images.MACHINE, help=f"that it is for (default here: {images.MACHINE})")
    push.add_argument("--broken", choices=["layer", "manifest"], help="spoil it in the registry")
    push.add_argument("--archive", type=pathlib.Path, metavar="TAR", help="push this OCI archive instead")
    push.set_defaults(run=_push)

    ctr = commands.add_parser("ctr", parents=[named], help="ask a node's own container runtime")
    ctr.add_argument("node", help="such as node-1")
    ctr.add_argument("argv", nargs="*", default=["images", "ls"], metavar="ARG", help="after --; default: images ls")
    ctr.set_defaults(run=lambda given: print(_running(given).node(given.node).ctr(*given.argv), end=""))

    build = commands.add_parser("tools", help="build or fetch the cluster's programs into the cache, and list them")
    build.set_defaults(run=_tools)

    snapshot = commands.add_parser("snapshot", help="print what clusters could leave behind on this machine")
    snapshot.add_argument("--compare", type=pathlib.Path, metavar="FILE", help="print the difference to an earlier one")
    snapshot.set_defaults(run=_snapshot)
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _open(given: argparse.Namespace) -> Cluster:
    return open_cluster(given.name, getattr(given, "nodes", 2), getattr(given, "simulated", 0), report=_say)


def _running(given: argparse.Namespace) -> Cluster:
    cluster = _open(given)
    if not cluster.is_up:
        raise ClusterError(f"cluster {given.name} is not up: start it with `python -m tests.cluster up`")
    return cluster


def _option(cluster: Cluster) -> str:
    return "" if cluster.name == "default" else f" --name {cluster.name}"


def _up(given: argparse.Namespace) -> None:
    cluster = _open(given)
    cluster.up()
    _say(f"try: python -m tests.cluster shell{_option(cluster)} -- kubectl get nodes")


def _status(given: argparse.Namespace) -> int:
    cluster = _open(given)
    if not cluster.is_up:
        print(f"cluster {given.name} is not up")
        return 1
    print(cluster.kubectl("get", "nodes", "-o", "wide"), end="")
    print(f"kubeconfig: {cluster.kubeconfig}\nregistry: {cluster.registry}")
    return 0


def _shell(given: argparse.Namespace) -> int:
    cluster = _running(given)
    argv = given.argv or [os.environ.get("SHELL", "/bin/sh")]
    return subprocess.call(cluster.command(argv), env=cluster.environment())


def _push(given: argparse.Namespace) -> None:
    cluster = _running(given)
    if given.archive:
        digest = cluster.push_archive(given.archive, given.ref)
    else:
        digest = cluster.push(
            given.ref,
            size_mb=given.size,
            layers=given.layers,
            user=given.user,
            architecture=given.architecture,
            broken=given.broken,
        )
    print(digest)


def _tools(given: argparse.Namespace) -> None:
    for name, path in tools.ensure(nodes=os.geteuid() == 0, report=_say).items():
        print(f"{name}: {path}")


def _snapshot(given: argparse.Namespace) -> int:
    if not given.compare:
        print(leftovers.take().to_json())
        return 0
    differences = leftovers.compare(leftovers.Snapshot.from_json(given.compare.read_text()), leftovers.take())
    print("\n".join(differences) if differences else "nothing was left behind")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
