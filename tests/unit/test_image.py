# SPDX-License-Identifier: GPL-3.0-or-later
"""The image builder's rules: what a root file system keeps, when an image is built again, what is said of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from controller import image

LOCK = (image.CHECKOUT / "controller/requirements.lock").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/python3.13",
        "usr/lib/python3.13/http/client.py",
        "usr/lib/python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
        "usr/lib64/ld-linux-x86-64.so.2",
        "lib64",
        "etc/passwd",
        "etc/os-release",
        "usr/lib/os-release",
        "tmp",
        "var/lib/dpkg/status.d/libssl3t64",
    ],
)
def test_controller_root_keeps_python_and_what_it_links_with(path: str) -> None:
    assert image.RUNTIME.keeps(path)


@pytest.mark.parametrize(
    "path",
    [
        "etc/hostname",
        "etc/resolv.conf",
        "etc/apt/sources.list",
        "usr/bin/dpkg",
        "usr/bin/tar",
        "usr/share/doc/libc6/copyright",
        "usr/lib/python3.13/test/support/__init__.py",
        "usr/lib/python3.13/lib-dynload/_testcapi.cpython-313-x86_64-linux-gnu.so",
        "usr/lib/x86_64-linux-gnu/libsqlite3.so.0",
        "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
        "var/cache/apt/archives/libc6.deb",
        "var/lib/dpkg/status.d/tar",
    ],
)
def test_controller_root_drops_the_build_host_and_the_package_manager(path: str) -> None:
    assert not image.RUNTIME.keeps(path)


def test_root_is_made_again_when_its_recipe_or_architecture_changes() -> None:
    roots = [
        image.RUNTIME,
        replace(image.RUNTIME, packages=("python3-minimal",)),
        replace(image.RUNTIME, drop=()),
    ]
    names = {root.file_name(architecture) for root in roots for architecture in image.MACHINES}
    assert len(names) == len(roots) * len(image.MACHINES)
    assert image.RUNTIME.file_name("amd64") == replace(image.RUNTIME).file_name("amd64")


def test_images_carry_the_versions_of_the_collection_and_of_the_helper() -> None:
    galaxy = (image.CHECKOUT / "galaxy.yml").read_text()
    assert f"\nversion: {image.controller().version}\n" in galaxy
    assert re.fullmatch(r"\d+\.\d+\.\d+", image.helper().version)
    assert image.helper().reference == f"ghcr.io/kubecache/image-puller-helper:{image.helper().version}"


def test_containerfiles_copy_only_what_the_builder_hands_them() -> None:
    for described in (image.controller(), image.helper()):
        handed = {str(file.relative_to(image.CHECKOUT)) for file in described.files()}
        text = (image.CHECKOUT / described.containerfile).read_text()
        copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
        assert copied
        for pattern in copied:
            names = {str(file.relative_to(image.CHECKOUT)) for file in image.CHECKOUT.glob(pattern)}
            assert names
            assert names <= handed


def test_build_arguments_are_declared_by_the_containerfiles() -> None:
    for described in (image.controller(), image.helper()):
        text = (image.CHECKOUT / described.containerfile).read_text()
        declared = {
            word.split("=")[0] for line in re.findall(r"^ARG (.+)$", text, re.MULTILINE) for word in line.split()
        }
        assert {"VERSION", *described.arguments, *described.roots} <= declared


def test_every_python_package_is_pinned_with_hashes() -> None:
    pins = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", LOCK, re.MULTILINE)
    assert {name for name, _ in pins} == set(re.findall(r"^([A-Za-z][\w.-]*)", LOCK, re.MULTILINE))
    wanted = re.findall(r"^(\w+)==(\S+)$", (image.CHECKOUT / "controller/requirements.txt").read_text(), re.MULTILINE)
    assert set(wanted) <= set(pins)


def test_packages_of_the_asynchronous_client_stay_out() -> None:
    unused = re.findall(
        r"^([\w-]+) ;", (image.CHECKOUT / "controller/requirements-unused.txt").read_text(), re.MULTILINE
    )
    assert "aiohttp" in unused
    assert not [name for name in unused if re.search(rf"^{name}==", LOCK, re.MULTILINE)]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout with nothing but one image's two input files."""
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    (tmp_path / "main.py").write_text("pass\n")
    (tmp_path / "root.tar").write_bytes(b"")
    monkeypatch.setattr(image, "CHECKOUT", tmp_path)
    return tmp_path


def example() -> image.Image:
    return image.Image("example", "1.0.0", "Containerfile", ("*.py",), {}, {})


def test_image_is_built_again_for_a_change_of_any_input(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout / "root.tar"

    def digest(described: image.Image, **arguments: str) -> str:
        return image.digest_of_inputs(described, [root], arguments)

    first = digest(example())
    assert digest(example()) == first
    seen = {first, digest(replace(example(), version="1.0.1")), digest(example(), CC="cc")}
    (checkout / "main.py").write_text("print()\n")
    seen.add(digest(example()))
    (checkout / "other.py").write_text("")
    seen.add(digest(example()))
    os.utime(root, (1, 1))
    seen.add(digest(example()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    seen.add(digest(example()))
    assert len(seen) == 7


def oci_archive(path: Path, layer: bytes) -> str:
    """Write an OCI archive of one layer to `path` and return its digest."""
    blobs: dict[str, bytes] = {}

    def add(content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = content
        return digest

    compressed = gzip.compress(layer, mtime=0)
    manifest = add(json.dumps({"layers": [{"digest": add(compressed), "size": len(compressed)}]}).encode())
    files = {f"blobs/{digest.replace(':', '/')}": content for digest, content in blobs.items()}
    files["index.json"] = json.dumps({"manifests": [{"digest": manifest}]}).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return manifest


def test_sizes_and_digest_are_those_of_the_archive(tmp_path: Path) -> None:
    digest = oci_archive(tmp_path / "image.oci.tar", b"\0" * 5_000_000)
    assert image.describe(tmp_path / "image.oci.tar") == f"0.00 MB compressed, 5.00 MB unpacked, {digest}"


def test_missing_tools_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(image, "KEYRING", tmp_path / "none.gpg")
    assert image.main(["--arch=amd64", f"--output={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        "The images can't be built: mmdebstrap and buildah and debian-archive-keyring are missing. Install the Debian "
        "packages of these names as root, or use `docker buildx build -f controller/Containerfile .`.\n"
    )


def test_architecture_that_does_not_run_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    monkeypatch.setattr(image, "MACHINES", {"other": "unheard-of"})
    assert image.main(["--arch=other", f"--output={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        "The images can't be built: programs for other don't run on this machine. Install Debian's qemu-user-static "
        "and binfmt-support, which emulate it.\n"
    )


def test_source_date_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(image.BuildError, match=r"^SOURCE_DATE_EPOCH is 'today'; it must be a number of seconds"):
        image.source_date()


def test_failed_command_is_reported_with_its_output(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(image.BuildError, match=r"^sh ended with exit status 3; what it said is above\.$"):
        image.run(["sh", "-c", "echo reason; exit 3"])
    assert "reason" in capfd.readouterr().err


def test_what_was_there_before_the_build_stays(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with image.without_traces(new / "cache" / "file", new / "cache", new, old / "file", old):
        (new / "cache").mkdir(parents=True)
        (new / "cache" / "file").touch()
        (new / "somebody's").touch()
        (old / "file").touch()
    assert sorted(tmp_path.rglob("*")) == [new, new / "somebody's", old]
