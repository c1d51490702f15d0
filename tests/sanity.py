# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-test's sanity tests, all of them and without exceptions, on what a user would install: `make sanity`.

They run in the place and under the name that Ansible gives an installed collection, and on nothing else, as Galaxy
does when it imports a release. The environments that ansible-test makes for them are kept in the cache. ansible-core is
that of PATH, kubernetes.core that of ANSIBLE_COLLECTIONS_PATH.
"""

from __future__ import annotations

import ast
import configparser
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages

from tests.setup import BUILD, CHECKOUT, cache_directory

PYTHON = "{}.{}".format(*sys.version_info)
# ansible-test fetches a script that installs pip into its environments. Python brings its own pip, and a machine
# that reaches package registries only has no other.
INSTALL_PIP = "import ensurepip\n\nensurepip.bootstrap(upgrade=True)\n"


def unpack_collection(directory: Path) -> Path:
    """Build the collection, unpack it below the directory where ansible-test expects it, and return that place."""
    build = ["ansible-galaxy", "collection", "build", str(CHECKOUT), "--output-path", str(directory)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (archive,) = directory.glob("*.tar.gz")
    collection = directory / "ansible_collections" / "kubecache" / "image_puller"
    with tarfile.open(archive) as opened:
        opened.extractall(collection, filter="data")
    core = directory / "ansible_collections" / "kubernetes" / "core"
    core.parent.mkdir()
    collections = Path(os.environ.get("ANSIBLE_COLLECTIONS_PATH") or BUILD / "collections")
    core.symlink_to((collections / "ansible_collections/kubernetes/core").resolve())
    return collection


def home() -> Path:
    """A home directory for ansible-test, where it finds how to install packages and keeps its environments."""
    directory = cache_directory() / "ansible-test"
    version = get_venv_packages(SimpleNamespace(version=PYTHON))["pip"].replace(".", "_")
    script = directory / ".ansible" / "test" / "cache" / f"get_pip_{version}.py"
    settings = directory / ".config" / "pip" / "pip.conf"
    for path, text in ((script, INSTALL_PIP), (settings, pip_settings())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # The address of a package index may carry a password.
        path.write_text(text)
    return directory


def pip_settings() -> str:
    """The settings that pip has here as a pip.conf, because ansible-test hides the environment from it; and quiet."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    lines = [line.split("=", 1) for line in listed.stdout.splitlines()]
    settings = {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in lines}
    config = configparser.RawConfigParser()
    config["global"] = {**settings, "quiet": "1"}
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def main() -> None:
    command = ["ansible-test", "sanity", "--python", PYTHON, "--color", "no", *sys.argv[1:]]
    # Outside of the checkout, because ansible-test skips what git ignores.
    with tempfile.TemporaryDirectory(prefix="image-puller-sanity-") as directory:
        collection = unpack_collection(Path(directory))
        environment = {**os.environ, "HOME": str(home())}
        sys.exit(subprocess.run(command, cwd=collection, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
