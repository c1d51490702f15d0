# SPDX-License-Identifier: GPL-3.0-or-later
"""The Image Puller from installation to uninstallation, shown on a cluster of its own: `make demo`.

Every command is one that a user types, and what stands below it is what it printed. A step that does not show what it
promises ends the demonstration with an error.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import yaml

from tests.cluster import Cluster, ClusterError, leftovers, open_cluster
from tests.cluster.embedded import state_root
from tests.cluster.tools import ToolError
from tests.running import ROOT, ansible_environment, push_built_images

DOCUMENTED = "tests/demo/documented.yml"
CORRECT = "playbooks/vars/codeready_workspaces_2_1.yml"
MISSPELT = "pluginbroker-metadata-rhel8"
NAME = "demo"
DELETE = "kubectl delete daemonset kubernetes-image-puller -n k8s-image-puller"
# The line of the table with nothing on its way any more.
ONE_FAILED = rf"^6 of 7 images cached on both nodes$(?s:.*)^{MISSPELT} +2 +- +- +- +2 "
SIZE = 8  # Megabytes.
KEEP = bool(os.environ.get("KEEP"))
STEPS = 7 if KEEP else 9
WIDTH = min(shutil.get_terminal_size((80, 24)).columns, 80)
BOLD, END = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
HOW_TO_REACH = f"""\
The cluster stays, with the Image Puller in it. To reach it, from this directory:

  export PATH=$PWD/build/venv/bin:$PATH
  export ANSIBLE_COLLECTIONS_PATH=$PWD/build/collections
  python -m tests.cluster shell --name {NAME}    # for kubectl and ansible-playbook
  python -m tests.cluster down --name {NAME}     # at the end"""
ENVIRONMENT = {
    "ANSIBLE_DISPLAY_OK_HOSTS": "no",  # Ansible's own switch: only what changes is listed.
    "ANSIBLE_FORCE_COLOR": "1" if BOLD else "0",
    "COLUMNS": str(WIDTH),
    "LC_ALL": "C.UTF-8",
}


class NotShown(Exception):
    """A step did not show what it promised."""


class Demo:
    """Shows commands, and what they print, as a terminal of 80 columns would."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.number = 0

    def step(self, title: str, text: str) -> None:
        """Begin a step."""
        self.number += 1
        print(f"\n{BOLD}{f'--- {self.number} of {STEPS}: {title} ':-<{WIDTH}}{END}\n\n{_wrap(text)}", flush=True)

    def run(self, command: str, expect: str, *, within: float = 0) -> None:
        """Show a command and what it prints; with ``within``, ask again for so many seconds until it is as expected."""
        print(f"\n{BOLD}$ {command}{END}", flush=True)
        end = time.monotonic() + within
        while True:
            printed = self.ask(command)
            shown = re.search(expect, re.sub(r"\x1b\[[0-9;]*m", "", printed), re.MULTILINE)
            if shown or time.monotonic() > end:
                break
            time.sleep(0.5)
        print(printed, flush=True)
        if not shown:
            raise NotShown(f"this should have shown {expect!r}")

    def ask(self, command: str) -> str:
        """What a command prints. The recap of a play has its blanks squeezed, so that it fits on a line."""
        done = subprocess.run(
            self.cluster.command(shlex.split(command.replace("\\\n", ""))),
            cwd=ROOT,
            env=ansible_environment(self.cluster) | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return re.sub(r"^.*unreachable=.*$", _squeeze, done.stdout, flags=re.MULTILINE).strip()


def _squeeze(recap: re.Match[str]) -> str:
    return re.sub(r" +(\x1b\[0m)? *", r"\1 ", recap.group()).rstrip()


def show(demo: Demo) -> None:
    """The steps, from a running cluster to a health check that has nothing to do."""
    images = yaml.safe_load((ROOT / CORRECT).read_text())["image_puller_images"]
    references = list(dict.fromkeys(images.values()))
    demo.step(
        "images",
        f"The {len(images)} images of the documentation, two of which are the same, are made on the spot and pushed to "
        "the cluster's registry. There the nodes find them under their own names.",
    )
    for reference in references:
        demo.cluster.push(reference, size_mb=SIZE)
    push_built_images(demo.cluster)
    print(f"\npushed: {len(references)} images of {SIZE} MB, and the Image Puller's own two", flush=True)

    demo.step(
        "install",
        f"With the list as it is documented, in which the host of {MISSPELT} is misspelt: egistry.access.redhat.com. "
        "The play is told not to wait for the images.",
    )
    demo.run(
        f"ansible-playbook kubecache.image_puller.install \\\n    -e @{DOCUMENTED} -e image_puller_wait=false",
        "failed=0",
    )

    demo.step("status", "Soon six images are cached on both nodes, and one has failed. The table says why.")
    demo.run("ansible-playbook kubecache.image_puller.status", ONE_FAILED, within=90)

    demo.step("correct the list", "Now with the right host. This time the play waits until all images are cached.")
    demo.run(
        f"ansible-playbook kubecache.image_puller.install \\\n    -e @{CORRECT}",
        f"{len(images)} of {len(images)} images cached on both nodes",
    )
    demo.run("kubectl get pod -n k8s-image-puller", "Running")

    demo.step("the controller", "The DaemonSet is deleted by hand. The controller in the cluster makes it again.")
    demo.run(DELETE, "deleted")
    demo.run(
        "kubectl wait daemonset kubernetes-image-puller -n k8s-image-puller \\\n"
        "    --for=jsonpath={.status.numberReady}=2",
        "condition met",
        within=30,
    )
    demo.run("kubectl get pod -n k8s-image-puller", "Running")

    demo.step(
        "the health check",
        "Without the controller nobody makes the DaemonSet again but the health check. It acts once, then it changes "
        "nothing. (A run that gives no list keeps the one in the cluster.)",
    )
    demo.run(
        "ansible-playbook kubecache.image_puller.install \\\n    -e image_puller_controller=false",
        "failed=0",
    )
    demo.run(DELETE, "deleted")
    demo.run("ansible-playbook kubecache.image_puller.health_check", "changed=1 .*failed=0")
    demo.run("ansible-playbook kubecache.image_puller.health_check", "changed=0 .*failed=0")


def uninstall(demo: Demo) -> None:
    """The last step in the cluster."""
    demo.step("uninstall", "Everything goes that was installed, and nothing else.")
    demo.run("ansible-playbook kubecache.image_puller.uninstall", "Nothing of the installation stays")
    demo.run(
        "kubectl get namespace,clusterrole,clusterrolebinding,priorityclass \\\n"
        "    -l app.kubernetes.io/managed-by=kubecache.image_puller",
        "^No resources found",
    )


def compare(before: leftovers.Snapshot, after: leftovers.Snapshot) -> list[str]:
    """What is new on this machine; with other test clusters on it, only what is this one's."""
    new = [line for line in leftovers.compare(before, after) if line.startswith("+")]
    root = str(state_root())
    states = {pathlib.Path(name) for name in before.files | after.files if name.startswith(f"{root}/")}
    if {state.name.partition(".")[0] for state in states} - {NAME}:
        print("\nOther test clusters run here: only what belongs to this one is compared.")
        return [line for line in new if re.search(rf"image-puller[-/]{NAME}\b(?!-)", line)]
    return new


def main() -> int:
    """Show everything; the exit code."""
    os.environ["IMAGE_PULLER_TEST_CLUSTER"] = "embedded"
    if os.geteuid():
        print("The demonstration runs real nodes and needs root: sudo make demo", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    open_cluster(NAME).down()  # What an earlier one left with KEEP=1.
    before = leftovers.take()
    cluster = open_cluster(NAME, nodes=2, report=lambda text: print(text, flush=True))
    demo = Demo(cluster)
    complete = False
    try:
        demo.step("a cluster", "Two real nodes and a registry start, as plain processes of this machine.\n")
        cluster.up()
        show(demo)
        if not KEEP:
            uninstall(demo)
        complete = True
    except (ClusterError, NotShown, ToolError) as error:
        print(f"\nThe demonstration ended early: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted: cleaning up.", file=sys.stderr)
    finally:
        if not (KEEP and complete):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if complete:
                demo.step("nothing is left", "The cluster goes, and this machine is compared with what it was before.")
            cluster.down()
    if KEEP and complete:
        print(f"\n{HOW_TO_REACH}")
    else:
        left = compare(before, leftovers.take())
        if left:
            print("\nLeft behind, or started by somebody else meanwhile:", *left, sep="\n", file=sys.stderr)
            return 1
        print("\nNo process, mount, network, control group, kernel setting or file is left.")
    if not complete:
        return 1
    print(f"\nThat took {time.monotonic() - begin:.0f} s. Next, on your own cluster: README.md, Installation.")
    return 0


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
