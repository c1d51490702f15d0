# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the controller's and the helper's image as OCI archives, without a daemon: `python -m controller.image`.

The same Containerfiles build the published images from public base images (`--base`, `--helper-base`, or
`docker buildx build`). By default the bases are Debian packages put together by mmdebstrap and the Python packages are
wheels fetched by pip, so that package registries are all that a build needs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parent.parent
REGISTRY = "ghcr.io/kubecache"
SUITE = "trixie"
PYTHON = "3.13"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# What Debian's packages are verified by; Ubuntu has mmdebstrap without it.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The one thing that buildah writes outside its --root and --runroot.
BLOB_CACHE = Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb")


class BuildError(Exception):
    """A build that can't go on; the text is one sentence for the user."""


@dataclass(frozen=True)
class RootFileSystem:
    """A tree of Debian packages, unpacked without running their scripts, less the paths that match `drop`."""

    name: str
    packages: tuple[str, ...]
    drop: tuple[str, ...] = ()

    def command(self, architecture: str) -> list[str]:
        """Return the mmdebstrap command line that prints this tree as a tar file."""
        return [
            "mmdebstrap",
            "--quiet",
            "--variant=extract",
            f"--architectures={architecture}",
            f"--include={','.join(('base-files', *self.packages))}",
            f"--extract-hook={EXTRACT_HOOK}",
            "--skip=output/dev",
            SUITE,
            "-",
        ]

    def file_name(self, architecture: str) -> str:
        """Return the cached file's name, which changes with the recipe."""
        recipe = "\n".join((*self.command(architecture), *self.drop))
        return f"{self.name}-{architecture}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"

    def keeps(self, path: str) -> bool:
        """Tell whether a path of the tree, without a leading slash, stays."""
        return not any(re.match(pattern, path) for pattern in (*DROP_ALWAYS, *self.drop))


# What the packages' scripts would have done: the list of packages (in the form that vulnerability scanners read from
# images without dpkg), the bundle of certificates and the image's user.
EXTRACT_HOOK = "; ".join(
    (
        'set -eu; cd "$1"; mkdir -p var/lib/dpkg/status.d',
        "for deb in var/cache/apt/archives/*.deb",
        'do dpkg-deb --field "$deb" > "var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"',
        "done",
        "if [ -d usr/share/ca-certificates ]",
        "then cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt",
        "fi",
        "echo nonroot:x:65532:65532:nonroot:/:/sbin/nologin > etc/passwd",
        "echo nonroot:x:65532: > etc/group",
    )
)
# The build host's name and resolver, the package manager, documentation.
DROP_ALWAYS = (
    r"etc/(apt|dpkg|hostname|resolv\.conf)\b",
    r"usr/share/(doc|info|lintian|locale|man)/",
    r"var/(cache|lib/apt|log)/.",
)
# What the controller never loads: everything but Python and the libraries that it and its packages link with.
LIBRARIES = "bz2|c|crypto|dl|expat|ffi|gcc_s|lzma|m|nss_[a-z]+|pthread|resolv|rt|ssl|util|uuid|z|zstd"
DROP_AT_RUN_TIME = (
    r"(boot|home|media|mnt|opt|srv)\b",
    r"etc/(?!passwd|group|os-release|debian_version|ld\.so|protocols|services|python)",
    r"usr/bin/(?!python3)",
    r"usr/(games|include|libexec|local|sbin/|share/|src)",
    r"usr/lib/(binfmt\.d|mime|systemd|tmpfiles\.d)",
    rf"usr/lib/[^/]+-linux-gnu[^/]*/(?!ld-linux|lib({LIBRARIES})\.so)",
    r"usr/lib/python3[^/]*/(idlelib|pydoc_data|test|tkinter|turtle)",
    r"usr/lib/python3[^/]*/lib-dynload/(_codecs_|_curses|_dbm|_gdbm|_sqlite3|_\w*test|_?xx|readline)",
    r"var/(?!lib(/dpkg(/status\.d|$)|$))",
    rf"var/lib/dpkg/status\.d/(?!base-files|netbase|python|lib({LIBRARIES}|gcc-s|python|ssl)[0-9.-])",
)
RUNTIME = RootFileSystem("python", ("python3-minimal", "libpython3-stdlib"), DROP_AT_RUN_TIME)
BUILDER = RootFileSystem("python-builder", ("python3-pip", "dash", "coreutils", "findutils"))
C_COMPILER = RootFileSystem(
    "c-compiler",
    ("gcc", "musl-tools", "dash", "coreutils"),
    (r".*/lto1$", r".*-lto-dump", r".*/lib(asan|gprofng|hwasan|lsan|tsan|ubsan)\."),
)
BUSYBOX = RootFileSystem("busybox", ("busybox-static",), (r"(?!(bin|usr|usr/bin|usr/bin/busybox)$)",))


@dataclass(frozen=True)
class Image:
    """An image: the files of the checkout that its build reads, its build arguments, and those that name a root."""

    name: str
    version: str
    containerfile: str
    inputs: tuple[str, ...]
    arguments: Mapping[str, str]
    roots: Mapping[str, RootFileSystem]

    @property
    def reference(self) -> str:
        """The published name."""
        return f"{REGISTRY}/{self.name}:{self.version}"

    def files(self) -> list[Path]:
        """Return the input files, sorted."""
        return sorted(file for pattern in (self.containerfile, *self.inputs) for file in CHECKOUT.glob(pattern))


def controller() -> Image:
    """Describe the controller's image; its version is the collection's."""
    found = re.search(r"^version:\s*[\"']?([\w.+-]+)", (CHECKOUT / "galaxy.yml").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError("galaxy.yml has no version.")
    return Image(
        name="image-puller",
        version=found[1],
        containerfile="controller/Containerfile",
        inputs=("controller/requirements.lock", "controller/*.py", "plugins/module_utils/*.py"),
        arguments={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"},
        roots={"BUILDER": BUILDER, "BASE": RUNTIME},
    )


def helper() -> Image:
    """Describe the helper's image, which has a version of its own."""
    return Image(
        name="image-puller-helper",
        version=(CHECKOUT / "controller/helper/VERSION").read_text().strip(),
        containerfile="controller/helper/Containerfile",
        inputs=("controller/helper/sleep.c",),
        arguments={"CC": "musl-gcc"},
        roots={"BUILDER": C_COMPILER, "BUSYBOX": BUSYBOX},
    )


def run(command: Sequence[str | Path]) -> None:
    """Run a command and show its output if it fails.

    :raises BuildError: with the exit status.
    """
    result = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        print(result.stdout, file=sys.stderr)
        raise BuildError(f"{command[0]} ended with exit status {result.returncode}; what it said is above.")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print a line for a step that takes a while, with its seconds."""
    print(f"{text} ...", end=" ", flush=True)
    start = time.monotonic()
    done = False
    try:
        yield
        done = True
    finally:
        print(f"{time.monotonic() - start:.1f} s" if done else "failed", flush=True)


def install_tools() -> None:
    """Install mmdebstrap, buildah and Debian's keys from the distribution's packages when they are missing.

    :raises BuildError: when that isn't possible, with what to do instead.
    """
    missing = [tool for tool in ("mmdebstrap", "buildah") if shutil.which(tool) is None]
    missing += [] if KEYRING.exists() else ["debian-archive-keyring"]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Install the Debian packages of "
            "these names as root, or use `docker buildx build -f controller/Containerfile .`."
        )
    with step(f"installing {' and '.join(missing)} with apt-get"):
        apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Acquire::Retries=3"]
        run([*apt, "update"])
        run([*apt, "install", "--no-install-recommends", *missing])


def native_architecture() -> str | None:
    """Return this machine's architecture as images name it, or None if no image is built for it."""
    return next((name for name, machine in MACHINES.items() if machine == platform.machine()), None)


def check_architecture(architecture: str) -> None:
    """Refuse an architecture whose programs can't run here.

    :raises BuildError: with what makes them run.
    """
    machine = MACHINES[architecture]
    if machine != platform.machine() and not Path(f"/proc/sys/fs/binfmt_misc/qemu-{machine}").exists():
        raise BuildError(
            f"programs for {architecture} don't run on this machine. Install Debian's qemu-user-static and "
            "binfmt-support, which emulate it."
        )


def cache_directory() -> Path:
    """Return the directory, outside the checkout, for what is kept between builds."""
    if path := os.environ.get("IMAGE_PULLER_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubecache-image-puller"


def write_root(root: RootFileSystem, architecture: str, target: Path) -> None:
    """Put `root` together with mmdebstrap and write it to the tar file `target`.

    :raises BuildError: after printing what mmdebstrap said.
    """
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(root.command(architecture), stdout=subprocess.PIPE, stderr=said) as process:
            whole = False
            with suppress(tarfile.ReadError), tarfile.open(fileobj=process.stdout, mode="r|") as source:
                with tarfile.open(target, "w") as output:
                    for member in source:
                        if root.keeps(member.name.removeprefix("./")):
                            output.addfile(member, source.extractfile(member) if member.isfile() else None)
                whole = True
        if process.returncode or not whole:
            said.seek(0)
            print(said.read(), file=sys.stderr)
            raise BuildError(f"mmdebstrap could not put {root.name} together; what it said is above.")


def cached_root(root: RootFileSystem, architecture: str, *, refresh: bool) -> Path:
    """Return the tar file of `root` from the cache, made first if it is missing or `refresh` is set."""
    target = cache_directory() / "base" / root.file_name(architecture)
    if target.exists() and not refresh:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    with step(f"{root.name}: Debian {SUITE} packages by mmdebstrap"):
        try:
            write_root(root, architecture, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def cached_wheels(architecture: str) -> Path:
    """Return a directory with each wheel of requirements.lock for the image's Python and architecture."""
    lock = CHECKOUT / "controller/requirements.lock"
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    target = cache_directory() / "wheels" / f"controller-{architecture}-{PYTHON}-{key}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    machine = MACHINES[architecture]
    platforms = (f"manylinux_2_28_{machine}", f"manylinux_2_17_{machine}", f"manylinux2014_{machine}")
    with step("wheels by pip"), tempfile.TemporaryDirectory(dir=target.parent) as partial:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
        command += [f"--platform={tag}" for tag in platforms]
        run([*command, f"--dest={partial}/wheels", f"--requirement={lock}"])
        Path(partial, "wheels").rename(target)
    return target


def source_date() -> int:
    """Return the time, in seconds since 1970, that files and histories of the images bear: SOURCE_DATE_EPOCH or 0.

    :raises BuildError: when the variable is no number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not text.isdecimal():
        raise BuildError(f"SOURCE_DATE_EPOCH is {text!r}; it must be a number of seconds since 1970.")
    return int(text)


class Buildah:
    """buildah for one architecture, with a storage of its own that goes with its directory."""

    def __init__(self, directory: Path, architecture: str) -> None:
        self._directory = directory
        self._architecture = architecture
        self._command = ["buildah", "--storage-driver=vfs", f"--root={directory}/root", f"--runroot={directory}/run"]

    def _run(self, *arguments: str | Path) -> None:
        run([*self._command, *arguments])

    def import_root(self, name: str, root: Path) -> str:
        """Make an image of one layer from a tar file and return its reference."""
        self._run("from", f"--arch={self._architecture}", f"--name={name}", "scratch")
        self._run("add", "--quiet", name, root, "/")
        self._run("commit", "--quiet", "--rm", "--timestamp=0", name, f"localhost/{name}")
        return f"localhost/{name}"

    def build(self, image: Image, arguments: Mapping[str, str], wheels: Path | None, archive: Path) -> None:
        """Build `image` from nothing but its input files and write it to the OCI archive `archive`."""
        context = self._directory / "context"
        for file in image.files():
            target = context / file.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        options = [f"--volume={wheels}:/wheels:ro"] if wheels else []
        options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--arch={self._architecture}", f"--timestamp={source_date()}", "--isolation=chroot"]
        self._run("bud", *options, f"--file={context / image.containerfile}", "--tag=localhost/result", context)
        self._run("push", "--quiet", "localhost/result", f"oci-archive:{archive}:{image.reference}")


@contextmanager
def without_traces(*paths: Path) -> Iterator[None]:
    """Remove afterwards those of `paths`, a file or empty directories, that were not there before; deepest first."""
    new = [path for path in paths if not path.exists()]
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()


def build(image: Image, architecture: str, output: Path, *, bases: Mapping[str, str], refresh: bool) -> Path:
    """Build `image`, unless that was done with the same inputs, and return the OCI archive, NAME.oci.tar in `output`.

    :param bases: references that take the place of roots, by build argument.
    :param refresh: take the Debian packages of today, not those of the cache.
    """
    roots = {
        name: cached_root(root, architecture, refresh=refresh)
        for name, root in image.roots.items()
        if name not in bases
    }
    arguments = {"VERSION": image.version, **image.arguments}
    archive, stamp = output / f"{image.name}.oci.tar", output / f".{image.name}.inputs"
    inputs = digest_of_inputs(image, roots.values(), arguments)
    if not bases and archive.exists() and stamp.exists() and stamp.read_text() == inputs:
        return archive
    wheels = cached_wheels(architecture) if "PIP_FIND_LINKS" in arguments else None
    output.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with (
        step(f"{image.name}: build"),
        tempfile.TemporaryDirectory(dir=output, prefix=".build-") as directory,
        without_traces(BLOB_CACHE, BLOB_CACHE.parent, BLOB_CACHE.parent.parent),
    ):
        buildah = Buildah(Path(directory), architecture)
        imported = {name: buildah.import_root(name.lower(), root) for name, root in roots.items()}
        partial = Path(directory, "image.oci.tar")
        buildah.build(image, {**arguments, **imported, **bases}, wheels, partial)
        partial.replace(archive)
    if not bases:
        stamp.write_text(inputs)
    return archive


def digest_of_inputs(image: Image, roots: Iterable[Path], arguments: Mapping[str, str]) -> str:
    """Return a digest of all that decides what `image` becomes."""
    digest = hashlib.sha256(repr((image.reference, source_date(), sorted(arguments.items()))).encode())
    for file in image.files():
        digest.update(f"{file.relative_to(CHECKOUT)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for root in roots:
        digest.update(f"{root.name} {root.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def describe(archive: Path) -> str:
    """Return the digest and the sizes of the image in an OCI archive, in words."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> IO[bytes]:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            if file is None:
                raise BuildError(f"{archive} has no blob {digest}.")
            return file

        index = tar.extractfile("index.json")
        if index is None:
            raise BuildError(f"{archive} is no OCI archive.")
        digest = json.load(index)["manifests"][0]["digest"]
        layers = json.load(blob(digest))["layers"]
        unpacked = sum(len(gzip.decompress(blob(layer["digest"]).read())) for layer in layers)
    compressed = sum(layer["size"] for layer in layers)
    return f"{compressed / 1e6:.2f} MB compressed, {unpacked / 1e6:.2f} MB unpacked, {digest}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    native = native_architecture()
    parser = argparse.ArgumentParser(prog="python -m controller.image", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--base", metavar="REF", help=f"base image of the controller, with Python {PYTHON} as python3")
    parser.add_argument("--helper-base", metavar="REF", help="image with a static /bin/busybox for the helper")
    parser.add_argument("--arch", choices=MACHINES, default=native, required=not native, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build", metavar="DIR", help="default: build")
    parser.add_argument("--refresh", action="store_true", help="fetch Debian's packages again: security updates")
    options = parser.parse_args(arguments)
    try:
        check_architecture(options.arch)
        install_tools()
        if os.geteuid() != 0:  # become root of a user namespace, as the files of an image have many owners
            command = ["buildah", "unshare", sys.executable, "-P", __file__]
            os.execvp("buildah", [*command, *(sys.argv[1:] if arguments is None else arguments)])
        for image, argument, base in ((controller(), "BASE", options.base), (helper(), "BUSYBOX", options.helper_base)):
            bases = {argument: base} if base else {}
            archive = build(image, options.arch, options.output.resolve(), bases=bases, refresh=options.refresh)
            print(f"{archive}: {image.reference} for {options.arch}\n  {describe(archive)}")
    except (BuildError, OSError) as error:
        print(f"The images can't be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
