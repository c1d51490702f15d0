# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images made on the spot, byte for byte the same each time, and pushed to a registry.

An image is a few gzipped tar layers, a configuration and a manifest (OCI image specification); no base image and no
builder are needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import platform
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .processes import ClusterError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MEGABYTE = 1 << 20
# This machine's architecture as images name it.
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
Connect = Callable[[], http.client.HTTPConnection]
Content = bytes | str | pathlib.Path  # bytes, the target of a symbolic link, or a file of this machine


def digest(data: bytes) -> str:
    """Digest of a blob, as registries name it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def split(reference: str) -> tuple[str, str]:
    """Repository without its registry, and tag: "quay.io/x/y:1" -> ("x/y", "1"); "busybox" -> ("library/busybox",
    "latest")."""
    path = without_registry(reference)
    repository, _, tag = path.partition(":")
    return repository if "/" in reference else f"library/{repository}", tag or "latest"


def without_registry(reference: str) -> str:
    """A reference, or the beginning of one, from its repository on: "quay.io/x/" -> "x/"."""
    host, _, path = reference.partition("/")
    return path if path and ("." in host or ":" in host or host == "localhost") else reference


@dataclasses.dataclass(frozen=True)
class Image:
    """The parts of one image. layers and config are blobs; manifest refers to them by digest."""

    architecture: str
    layers: tuple[bytes, ...]
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def build(
    files: dict[str, Content],
    *,
    size_mb: float = 0,
    layers: int = 1,
    seed: str = "",
    architecture: str = MACHINE,
    **config: object,
) -> Image:
    """An image with these files (path -> content) and `size_mb` megabytes that don't compress, in `layers` layers.

    seed makes every layer its own: images share layers only if they have the same files, sizes and seed. config:
    fields of the OCI configuration, such as Entrypoint, User, Env.
    """
    source = random.Random(seed)
    tars = []
    for number in range(layers):
        filler = f"{seed}\n".encode() + source.randbytes(int(size_mb * MEGABYTE / layers))
        tars.append(_tar((files if number == 0 else {}) | {f"/filler/{number}": filler}))
    blobs = tuple(gzip.compress(tar, 0 if size_mb else 1, mtime=0) for tar in tars)
    configuration = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {key: value for key, value in config.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, configuration),
        "layers": [_descriptor(LAYER, blob) for blob in blobs],
    }
    return Image(architecture, blobs, configuration, _json(manifest))


def artifact(files: Mapping[str, bytes], layer: str, *, tarred: bool) -> Image:
    """What is no image: a manifest with an artifactType and an empty configuration (OCI image specification 1.1).

    layer: the media type of its layers, one for each file; tarred: whether they are gzipped tar files with it.
    """
    blobs = tuple(
        gzip.compress(_tar({name: data}), 1, mtime=0) if tarred else data for name, data in sorted(files.items())
    )
    named = zip(blobs, sorted(files), strict=True)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.model",
        "config": _descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [
            _descriptor(layer, blob) | {"annotations": {"org.opencontainers.image.title": name}} for blob, name in named
        ],
    }
    return Image(MACHINE, blobs, b"{}", _json(manifest))


@contextlib.contextmanager
def _opened(archive: pathlib.Path) -> Iterator[tuple[Mapping[str, str], Callable[[str], bytes]]]:
    """The entry of the one image (or index) of an OCI archive, and what reads a blob by its digest."""
    with tarfile.open(archive) as tar:

        def blob(name: str) -> bytes:
            member = tar.extractfile(f"blobs/{name.replace(':', '/')}")
            if member is None:
                raise ClusterError(f"{archive} has no blob {name}")
            return member.read()

        index = tar.extractfile("index.json")
        entries = json.load(index)["manifests"] if index else []
        if len(entries) != 1:
            raise ClusterError(f"{archive} holds {len(entries)} images; one was expected")
        yield entries[0], blob


def extended(archive: pathlib.Path, files: dict[str, Content], **config: object) -> Image:
    """The one image of an OCI archive with further files in a layer of their own, and other fields of its config."""
    with _opened(archive) as (entry, blob):
        manifest = json.loads(blob(entry["digest"]))
        below = [blob(layer["digest"]) for layer in manifest["layers"]]
        configuration = json.loads(blob(manifest["config"]["digest"]))
    added = _tar(files)
    blobs = (*below, gzip.compress(added, 1, mtime=0))
    configuration["rootfs"]["diff_ids"].append(digest(added))
    configuration["config"] |= config
    configuration.pop("history", None)
    made = _json(configuration)
    layers = [*manifest["layers"], _descriptor(LAYER, blobs[-1])]
    parts = {"schemaVersion": 2, "mediaType": MANIFEST, "config": _descriptor(CONFIG, made), "layers": layers}
    return Image(MACHINE, blobs, made, _json(parts))


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(blob), "digest": digest(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tar(files: dict[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
                continue
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def busybox_files(busybox: pathlib.Path, applets: Iterable[str]) -> dict[str, Content]:
    """The files of an image that has a shell: busybox, and a link for each of its programs."""
    links: dict[str, Content] = {f"/bin/{name}": "busybox" for name in applets if name != "busybox"}
    return {"/bin/busybox": busybox} | links


# Pushing


def push(connect: Connect, image: Image, reference: str, *, index: bool = False) -> str:
    """Push an image, or an index with it; the digest of what the reference then stands for. Raises ClusterError.

    An image for another machine is always pushed in an index, because a runtime looks at the platform only there.
    """
    repository, tag = split(reference)
    for blob in (*image.layers, image.config):
        _push_blob(connect, repository, digest(blob), blob)
    if image.architecture == MACHINE and not index:
        _push_manifest(connect, repository, tag, image.manifest, MANIFEST)
        return image.digest
    _push_manifest(connect, repository, image.digest, image.manifest, MANIFEST)
    entry = _descriptor(MANIFEST, image.manifest) | {"platform": {"architecture": image.architecture, "os": "linux"}}
    listed = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    _push_manifest(connect, repository, tag, listed, INDEX)
    return digest(listed)


def push_archive(connect: Connect, archive: pathlib.Path, reference: str) -> str:
    """Push the one image, or index of images, of an OCI archive; its digest. Raises ClusterError."""
    repository, tag = split(reference)
    with _opened(archive) as (entry, blob):
        return _push_tree(connect, repository, tag, entry, blob)


def _push_tree(
    connect: Connect, repository: str, tag: str, entry: Mapping[str, str], blob: Callable[[str], bytes]
) -> str:
    """Push a manifest after everything that it refers to."""
    manifest = blob(entry["digest"])
    content = json.loads(manifest)
    for child in content.get("manifests", []):
        _push_tree(connect, repository, child["digest"], child, blob)
    for part in [content["config"], *content["layers"]] if "layers" in content else []:
        _push_blob(connect, repository, part["digest"], blob(part["digest"]))
    _push_manifest(connect, repository, tag, manifest, entry["mediaType"])
    return entry["digest"]


def _push_blob(connect: Connect, repository: str, name: str, data: bytes) -> None:
    if _request(connect, "HEAD", f"/v2/{repository}/blobs/{name}", accept=(200, 404))[0] == 200:
        return
    _, headers = _request(connect, "POST", f"/v2/{repository}/blobs/uploads/", accept=(202,))
    location = headers["Location"]
    path = "/" + location.partition("://")[2].partition("/")[2] if "://" in location else location
    separator = "&" if "?" in path else "?"
    octets = {"Content-Type": "application/octet-stream"}
    _request(connect, "PUT", f"{path}{separator}digest={name}", data, octets, accept=(201,))


def _push_manifest(connect: Connect, repository: str, tag: str, manifest: bytes, media_type: str) -> None:
    _request(connect, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": media_type}, accept=(201,))


def _request(
    connect: Connect,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    accept: Sequence[int],
) -> tuple[int, http.client.HTTPMessage]:
    connection = connect()
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
    except OSError as error:
        raise ClusterError(f"the registry at {connection.host}:{connection.port} does not answer ({error})") from error
    finally:
        connection.close()
    if response.status not in accept:
        raise ClusterError(f"the registry answered {response.status} to {method} {path}: {text[:300].decode()}")
    return response.status, response.headers
