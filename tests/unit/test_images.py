# SPDX-License-Identifier: GPL-3.0-or-later
"""Image references follow the runtimes' grammar; the IMAGES text is read in every form that is documented."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kubecache.image_puller.plugins.module_utils.images import (
    InvalidReference,
    Reference,
    parse_reference,
    split_entries,
)
from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    CachedImage,
    format_images,
    from_config_map,
)
from tests.unit import objects

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/nginx", "docker.io/team/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("quay.io/eclipse/che-theia:7", "quay.io/eclipse/che-theia:7"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("x:5000", "docker.io/library/x:5000"),
        ("Host/x:1", "Host/x:1"),
        (f"quay.io/a/b@{SHA}", f"quay.io/a/b@{SHA}"),
        (f"quay.io/a/b:1@{SHA}", f"quay.io/a/b:1@{SHA}"),
        ("quay.io/a__b/c--d.e_f:v1.0_A", "quay.io/a__b/c--d.e_f:v1.0_A"),
        ("quay.io/a/b@sha512:" + "0" * 128, "quay.io/a/b@sha512:" + "0" * 128),
    ],
)
def test_a_reference_names_the_same_image_in_short_and_in_full(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("", "the image is empty", "write registry/repository:tag"),
        ("quay.io/a b:1", "the image has white space in it", "remove it, or put ';' between two entries"),
        ("https://quay.io/a/b:1", "the image begins with a scheme (https://)", "write the image as 'quay.io/a/b:1'"),
        ("docker://", "the image begins with a scheme (docker://)", "write registry/repository:tag"),
        ("http://https://a/b", "the image begins with a scheme (http://https://)", "write the image as 'a/b'"),
        (
            "https://quay.io/A/b:1",
            "the image begins with a scheme (https://), and the repository 'A/b' has upper case letters",
            "leave the scheme out, and write the image as 'quay.io/a/b:1'",
        ),
        ("quay.io/a:", "the tag is empty", "put the tag after the ':', or remove the ':'"),
        ("nginx:", "the tag is empty", "put the tag after the ':', or remove the ':'"),
        (
            "quay.io/a:-1",
            "'-1' is no tag",
            "use at most 128 letters, digits, '_', '.' and '-', with no '.' or '-' in front",
        ),
        (
            "quay.io/Team/java11:2.1",
            "the repository 'Team/java11' has upper case letters",
            "write the image as 'quay.io/team/java11:2.1'",
        ),
        ("Nginx:1", "the repository 'Nginx' has upper case letters", "write the image as 'nginx:1'"),
        (
            "A.io/A.io/b:A.io",
            "the repository 'A.io/b' has upper case letters",
            "write the image as 'A.io/a.io/b:A.io'",
        ),
        (
            "quay.io/-a:1",
            "'-a' is no repository",
            "write lower case letters and digits, separated by '.', '_', '-' or '/'",
        ),
        (
            "quay.io//a",
            "'/a' is no repository",
            "write lower case letters and digits, separated by '.', '_', '-' or '/'",
        ),
        ("/a:1", "'' is no registry", "write host or host:port before the first '/'"),
        ("quay.io:x/a:1", "'quay.io:x' is no registry", "write host or host:port before the first '/'"),
        ("quay.io/a@sha256:abc", "'sha256:abc' is no digest", "write @sha256: and 64 lower case hexadecimal digits"),
        ("quay.io/a@", "'' is no digest", "write @sha256: and 64 lower case hexadecimal digits"),
        ("a@md5:" + "0" * 32, f"'md5:{'0' * 32}' is no digest", "write @sha256: and 64 lower case hexadecimal digits"),
        ("0" * 64, "the image is only a digest", "write registry/repository@sha256:digest"),
        ("quay.io/" + "a" * 256, "the repository is too long", "use at most 255 characters"),
    ],
)
def test_a_reference_that_no_runtime_takes_is_refused_with_what_to_write(text: str, what: str, remedy: str) -> None:
    with pytest.raises(InvalidReference) as refused:
        parse_reference(text)
    assert (refused.value.what, refused.value.remedy) == (what, remedy)


@given(objects.references)
def test_a_reference_is_read_back_from_its_full_form(text: str) -> None:
    reference = parse_reference(text)
    again = parse_reference(str(reference))
    assert again == Reference(
        reference.registry,
        reference.repository,
        reference.tag or ("" if reference.digest else "latest"),
        reference.digest,
    )
    assert str(again) == str(reference)


@given(st.text(max_size=80) | st.from_regex(r"[A-Za-z./:@ -]{1,40}", fullmatch=True))
def test_any_text_is_a_reference_or_says_why_not(text: str) -> None:
    try:
        told = str(parse_reference(text))
    except InvalidReference as error:
        told = f"{error.what}/{error.remedy}"
    assert all(told.split("/"))


DOCUMENTED = {
    "one line": "java11=r.io/java11:2.1;theia-rhel8=r.io/theia:2.1;node=r.io/node:1",
    "last ; written": "java11=r.io/java11:2.1;theia-rhel8=r.io/theia:2.1;node=r.io/node:1;",
    "literal block": "java11=r.io/java11:2.1;\ntheia-rhel8=r.io/theia:2.1;\nnode=r.io/node:1;\n",
    "literal block, indented": "  java11=r.io/java11:2.1;\n    theia-rhel8=r.io/theia:2.1;\n\n  node=r.io/node:1\n",
    "literal block without ;": "java11=r.io/java11:2.1\ntheia-rhel8=r.io/theia:2.1\nnode=r.io/node:1\n",
    "folded block": "java11=r.io/java11:2.1; theia-rhel8=r.io/theia:2.1; node=r.io/node:1;",
    "shell example": "java11=r.io/java11:2.1;\\\ntheia-rhel8=r.io/theia:2.1;\\\nnode=r.io/node:1;",
    "shell example, indented": "java11=r.io/java11:2.1; \\\n  theia-rhel8=r.io/theia:2.1; \\\n  node=r.io/node:1; \\",
    "white space around =": "java11 = r.io/java11:2.1 ;theia-rhel8= r.io/theia:2.1;node =\nr.io/node:1",
    "carriage returns": "java11=r.io/java11:2.1;\r\ntheia-rhel8=r.io/theia:2.1;\r\nnode=r.io/node:1\r\n",
    "empty entries": ";;java11=r.io/java11:2.1;;\n;theia-rhel8=r.io/theia:2.1; ;node=r.io/node:1;;",
}


@pytest.mark.parametrize("form", DOCUMENTED)
def test_every_documented_form_of_the_text_means_the_same_list(form: str) -> None:
    reading = from_config_map({"IMAGES": DOCUMENTED[form]})
    assert not reading.problems
    assert reading.settings
    assert format_images(reading.settings.images) == DOCUMENTED["one line"]


@pytest.mark.parametrize("entry", ["java11{}r.io/java11:2.1", "java11{}={}r.io/java11:2.1", "{}", "{}={}", "a{}b{}c"])
@pytest.mark.parametrize("blank", [" ", "\t\r\n", "\\\n", ";"])
def test_a_megabyte_of_blanks_is_read_at_once(entry: str, blank: str) -> None:
    began = time.monotonic()
    from_config_map({"IMAGES": entry.replace("{}", blank * (10**6 // len(blank)))})
    assert time.monotonic() - began < 10


@given(objects.image_lists)
def test_the_canonical_text_is_a_fixed_point(images: tuple[CachedImage, ...]) -> None:
    text = format_images(images)
    reading = from_config_map({"IMAGES": text})
    assert reading.settings
    assert reading.settings.images == images
    assert format_images(reading.settings.images) == text


@given(objects.image_lists, st.sampled_from([";", ";\n", "\n", ";\\\n", " ;\r\n  ", "; "]), st.booleans())
def test_it_does_not_matter_how_entries_are_separated(
    images: tuple[CachedImage, ...], separator: str, ended: bool
) -> None:
    text = separator.join(f"{i.name}={i.image}" for i in images) + (separator if ended else "")
    assert split_entries(text) == [f"{i.name}={i.image}" for i in images]
