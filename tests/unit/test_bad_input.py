# SPDX-License-Identifier: GPL-3.0-or-later
"""What an administrator reads when something is wrong: each sentence, word for word.

Every problem of a set is told at once, with key, entry, what is wrong and what to write instead.
"""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.kubecache.image_puller.plugins.module_utils.settings import (
    InvalidSettings,
    from_config_map,
    from_options,
    require,
)

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERM = f"nodeAffinity.{_REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"


def _node_affinity(*requirements: Any) -> dict[str, Any]:
    return {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": list(requirements)}]}}}


CASES: list[tuple[str, Any, str]] = [
    # entry without "="
    (
        "images",
        "registry.example.com/team/java11:2.1",
        "images, entry 1 'registry.example.com/team/java11:2.1': there is no '=' between name and image. "
        "Remedy: write 'java11=registry.example.com/team/java11:2.1'.",
    ),
    (
        "images",
        "java11: registry.example.com/team/java11:2.1",
        "images, entry 1 'java11: registry.example.com/team/java11:2.1': there is no '=' between name and image. "
        "Remedy: write 'java11=registry.example.com/team/java11:2.1'.",
    ),
    (
        "images",
        "java11",
        "images, entry 1 'java11': there is no '=' between name and image. "
        "Remedy: write java11=registry/repository:tag.",
    ),
    (
        "images",
        "what is this",
        "images, entry 1 'what is this': there is no '=' between name and image. "
        "Remedy: write name=image, for example java11=registry.example.com/team/java11:2.1.",
    ),
    # a name that is no DNS-1123 label
    (
        "images",
        {"Java_11": "r.io/java11:2.1"},
        "images, entry 1 'Java_11=r.io/java11:2.1': the name 'Java_11' is no DNS-1123 label "
        "(at most 63 lower case letters, digits and '-'). Remedy: write the name as 'java-11'.",
    ),
    (
        "images",
        "=r.io/team/java11:2.1",
        "images, entry 1 '=r.io/team/java11:2.1': there is no name. Remedy: write the name as 'java11'.",
    ),
    # duplicate names
    (
        "images",
        "java11=r.io/a:1;theia=r.io/b:1;java11=r.io/c:1",
        "images, entry 3 'java11=r.io/c:1': the name 'java11' was used before, in entry 1. "
        "Remedy: write another name, for example java11-3.",
    ),
    (
        "images",
        "java11=r.io/a:1;java11=r.io/a:1",
        "images, entry 2 'java11=r.io/a:1': the name 'java11' was used before, in entry 1. "
        "Remedy: remove one of the two.",
    ),
    # invalid image reference
    (
        "images",
        "java11=registry.example.com/Team/java11:2.1",
        "images, entry 1 'java11=registry.example.com/Team/java11:2.1': the repository 'Team/java11' has upper case "
        "letters. Remedy: write the image as 'registry.example.com/team/java11:2.1'.",
    ),
    (
        "images",
        "java11=r.io/java 11:2.1",
        "images, entry 1 'java11=r.io/java 11:2.1': the image has white space in it. "
        "Remedy: remove it, or put ';' between two entries.",
    ),
    (
        "images",
        "java11=r.io/java11:2.1 theia=r.io/theia:2.1",
        "images, entry 1 'java11=r.io/java11:2.1 theia=r.io/theia:2.1': there are two '=' in one entry. "
        "Remedy: put ';' between two entries.",
    ),
    (
        "images",
        "java11=https://r.io/java11:2.1",
        "images, entry 1 'java11=https://r.io/java11:2.1': the image begins with a scheme (https://). "
        "Remedy: write the image as 'r.io/java11:2.1'.",
    ),
    (
        "images",
        "java11=r.io/java11:",
        "images, entry 1 'java11=r.io/java11:': the tag is empty. "
        "Remedy: put the tag after the ':', or remove the ':'.",
    ),
    (
        "images",
        "java11=",
        "images, entry 1 'java11=': the image is empty. Remedy: write registry/repository:tag.",
    ),
    # entries and lists of another shape
    (
        "images",
        [{"name": "java11", "url": "r.io/java11:2.1"}],
        'images, entry 1 \'{"name": "java11", "url": "r.io/java11:2.1"}\': the field url is unknown. '
        "Remedy: write {name: java11, image: registry.example.com/team/java11:2.1}.",
    ),
    (
        "images",
        {"java11": None},
        'images, entry 1 \'{"name": "java11", "image": null}\': name and image must both be there and be texts. '
        "Remedy: write {name: java11, image: registry.example.com/team/java11:2.1}.",
    ),
    (
        "images",
        [7],
        "images, entry 1 '7': it is a whole number, not an image. "
        "Remedy: write java11=registry.example.com/team/java11:2.1.",
    ),
    (
        "images",
        7,
        "images '7': it is no list of images. Remedy: write java11=registry.example.com/team/java11:2.1, "
        "a list of {name, image}, or a mapping name: image.",
    ),
    (
        "images",
        '{"java11": ',
        "images '{\"java11\": ': it is neither JSON nor YAML (expected the node content, but found '<stream end>' at "
        "line 1, column 12). Remedy: write java11=registry.example.com/team/java11:2.1.",
    ),
    # empty list
    *(
        (
            "images",
            empty,
            f"images {text!r}: the list is empty. "
            "Remedy: name at least one image, for example java11=registry.example.com/team/java11:2.1.",
        )
        for empty, text in (([], "[]"), ({}, "{}"), (" ; ;", " ; ;"))
    ),
    # quantities
    (
        "caching_memory_request",
        "10MB",
        "caching_memory_request '10MB': it is no Kubernetes quantity. "
        "Remedy: write a number and a unit without a space, such as 20Mi, 50m or .05.",
    ),
    (
        "caching_cpu_limit",
        "-1",
        "caching_cpu_limit '-1': a quantity is not negative. Remedy: write 0 or more, for example 10Mi or .05.",
    ),
    # request above limit
    (
        "caching_memory_request",
        "30Mi",
        "caching_memory_request '30Mi': it is above the limit caching_memory_limit (20Mi, the default). "
        "Remedy: lower caching_memory_request, or raise caching_memory_limit to at least 30Mi.",
    ),
    (
        "caching_cpu_limit",
        "10m",
        "caching_cpu_limit '10m': it is below the request caching_cpu_request (.05, the default). "
        "Remedy: lower caching_cpu_request, or raise caching_cpu_limit to at least .05.",
    ),
    # interval
    *(
        (
            "caching_interval_hours",
            hours,
            f"caching_interval_hours '{hours}': it is no number of hours above 0. "
            "Remedy: write a number such as 1 or 0.5 (0.0001 to 87600).",
        )
        for hours in (0, "-1", "soon", "nan", "inf", "1h")
    ),
    # node selector and annotations
    (
        "node_selector",
        "disktype=ssd",
        "node_selector 'disktype=ssd': it is a text, not a JSON object. "
        'Remedy: write a JSON object such as {"disktype": "ssd"}.',
    ),
    (
        "node_selector",
        '{"disktype": "ssd"',
        "node_selector '{\"disktype\": \"ssd\"': it is neither JSON nor YAML (expected ',' or '}', but got '<stream "
        'end>\' at line 1, column 19). Remedy: write a JSON object such as {"disktype": "ssd"}.',
    ),
    (
        "node_selector",
        ["disktype"],
        "node_selector '[\"disktype\"]': it is a JSON list, not a JSON object. "
        'Remedy: write a JSON object such as {"disktype": "ssd"}.',
    ),
    (
        "node_selector",
        {"gpu": True},
        "node_selector '{\"gpu\": true}': the value of gpu is true or false, not a text. "
        'Remedy: write {"gpu": "true"}.',
    ),
    (
        "node_selector",
        {"disk type": "ssd"},
        "node_selector '{\"disk type\": \"ssd\"}': 'disk type' is no key of a label or an annotation. Remedy: use at "
        "most 63 letters, digits, '-', '_' and '.', and before them a DNS name and '/' if you like.",
    ),
    (
        "node_selector",
        {"disktype": "very fast"},
        "node_selector '{\"disktype\": \"very fast\"}': 'very fast' is no value of a label (disktype). Remedy: use at "
        "most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends.",
    ),
    (
        "node_selector",
        {"kubernetes.io/os": "windows"},
        'node_selector \'{"kubernetes.io/os": "windows"}\': the cache runs on Linux nodes only. '
        'Remedy: leave "kubernetes.io/os" out, or write "linux".',
    ),
    (
        "daemonset_annotations",
        {"example.com/size": 7},
        "daemonset_annotations '{\"example.com/size\": 7}': the value of example.com/size is a whole number, "
        'not a text. Remedy: write {"example.com/size": "7"}.',
    ),
    # affinity
    (
        "affinity",
        {"nodeAffinit": {}},
        "affinity '{\"nodeAffinit\": {}}': the field nodeAffinit is unknown. Remedy: write nodeAffinity.",
    ),
    (
        "affinity",
        {"nodes": {}},
        "affinity '{\"nodes\": {}}': the field nodes is unknown. "
        "Remedy: use nodeAffinity, podAffinity, podAntiAffinity.",
    ),
    (
        "affinity",
        {"nodeAffinity": []},
        "affinity '{\"nodeAffinity\": []}': nodeAffinity is a JSON list, not a JSON object. "
        "Remedy: write a JSON object.",
    ),
    (
        "affinity",
        [],
        "affinity '[]': it is a JSON list, not a JSON object. Remedy: write a JSON object such as "
        '{"nodeAffinity": {...}} with the fields of a pod\'s affinity.',
    ),
    (
        "affinity",
        {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": []}}},
        f'affinity \'{{"nodeAffinity": {{"{_REQUIRED}": {{"nodeSelectorTerms": []}}}}}}\': '
        f"nodeAffinity.{_REQUIRED}.nodeSelectorTerms is empty. Remedy: name a term, or leave the field out.",
    ),
    # tolerations
    (
        "tolerations",
        {"key": "gpu"},
        'tolerations \'{"key": "gpu"}\': it is a JSON object, not a JSON list. Remedy: write a JSON list such as '
        '[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}].',
    ),
    (
        "tolerations",
        [{"key": "gpu", "operator": "Exists", "efect": "NoSchedule"}],
        'tolerations, entry 1 \'{"key": "gpu", "operator": "Exists", "efect": "NoSchedule"}\': '
        "the field efect is unknown. Remedy: write effect.",
    ),
    (
        "tolerations",
        ["gpu"],
        "tolerations, entry 1 'gpu': it is a text, not a JSON object. Remedy: write a JSON object.",
    ),
    (
        "tolerations",
        [{"key": "gpu", "operator": "Is"}],
        'tolerations, entry 1 \'{"key": "gpu", "operator": "Is"}\': the operator \'Is\' is unknown. '
        "Remedy: write Exists or Equal.",
    ),
    (
        "tolerations",
        [{"key": "gpu", "operator": "Exists", "value": "yes"}],
        'tolerations, entry 1 \'{"key": "gpu", "operator": "Exists", "value": "yes"}\': the operator Exists takes no '
        "value. Remedy: remove the value, or write operator Equal.",
    ),
    (
        "tolerations",
        [{"effect": "NoSchedule"}],
        'tolerations, entry 1 \'{"effect": "NoSchedule"}\': a toleration without a key needs the operator Exists. '
        "Remedy: name the key, or write operator Exists.",
    ),
    (
        "tolerations",
        [{"key": "gpu", "effect": "Never"}],
        'tolerations, entry 1 \'{"key": "gpu", "effect": "Never"}\': the effect \'Never\' is unknown. '
        "Remedy: write NoSchedule, PreferNoSchedule or NoExecute, or leave it out.",
    ),
    (
        "tolerations",
        [{"key": "gpu", "tolerationSeconds": 5}],
        'tolerations, entry 1 \'{"key": "gpu", "tolerationSeconds": 5}\': tolerationSeconds needs the effect '
        "NoExecute. Remedy: remove it, or write effect NoExecute.",
    ),
    # names
    (
        "daemonset_name",
        "My_Cache",
        "daemonset_name 'My_Cache': it is no name of a Kubernetes object (a DNS-1123 subdomain of at most 63 "
        "characters). Remedy: write 'my-cache', or other lower case letters, digits, '-' and '.'.",
    ),
    (
        "namespace",
        "Image Puller",
        "namespace 'Image Puller': it is no name of a namespace (a DNS-1123 label of at most 63 characters). "
        "Remedy: write 'image-puller', or other lower case letters, digits and '-'.",
    ),
    (
        "namespace",
        "a" * 64,
        f"namespace '{'a' * 64}': it is no name of a namespace (a DNS-1123 label of at most 63 characters). "
        f"Remedy: write '{'a' * 63}', or other lower case letters, digits and '-'.",
    ),
    # the rest
    (
        "refresh",
        "Digests",
        "refresh 'Digests': it is no way to refresh tags. Remedy: write digest.",
    ),
    (
        "refresh",
        "hourly",
        "refresh 'hourly': it is no way to refresh tags. Remedy: write one of digest, restart, never.",
    ),
    (
        "refresh",
        False,
        "refresh 'false': it is no way to refresh tags. Remedy: write one of digest, restart, never.",
    ),
    (
        "image_pull_secrets",
        "pull;My_Secret",
        "image_pull_secrets 'pull;My_Secret': 'My_Secret' is no name of a Secret. "
        "Remedy: use lower case letters, digits, '-' and '.', with a letter or digit at both ends.",
    ),
    (
        "image_pull_secrets",
        {"name": "pull"},
        'image_pull_secrets \'{"name": "pull"}\': it is no list of names. '
        "Remedy: write the names of the Secrets, separated by ';'.",
    ),
    (
        "helper_image",
        "https://r.io/helper:1",
        "helper_image 'https://r.io/helper:1': the image begins with a scheme (https://). "
        "Remedy: write the image as 'r.io/helper:1'.",
    ),
    (
        "max_unavailable",
        "0",
        "max_unavailable '0': it is neither a number of nodes nor a percentage of them. "
        "Remedy: write 1 or more, or 1% to 100%.",
    ),
    (
        "max_unavailable",
        "101%",
        "max_unavailable '101%': it is neither a number of nodes nor a percentage of them. "
        "Remedy: write 1 or more, or 1% to 100%.",
    ),
    (
        "pod_labels",
        {"team": "a b"},
        "pod_labels '{\"team\": \"a b\"}': 'a b' is no value of a label (team). "
        "Remedy: use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends.",
    ),
    (
        "pod_labels",
        '{"kubecache.io/daemonset": "other"}',
        'pod_labels \'{"kubecache.io/daemonset": "other"}\': kubecache.io/daemonset is a label that the cache\'s pods '
        "have for another purpose. Remedy: leave it out.",
    ),
    (
        "pod_labels",
        '{"app.kubernetes.io/name": "other"}',
        'pod_labels \'{"app.kubernetes.io/name": "other"}\': app.kubernetes.io/name is a label that the cache\'s pods '
        "have for another purpose. Remedy: leave it out.",
    ),
    (
        "pod_annotations",
        {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"},
        'pod_annotations \'{"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}\': '
        "seccomp.security.alpha.kubernetes.io/pod would take a protection from the pods that Pod Security asks for. "
        "Remedy: leave it out.",
    ),
    (
        "pod_annotations",
        {"example.com/mesh": False},
        "pod_annotations '{\"example.com/mesh\": false}': the value of example.com/mesh is true or false, not a text. "
        'Remedy: write {"example.com/mesh": "false"}.',
    ),
    (
        "runtime_class_name",
        "Kata",
        "runtime_class_name 'Kata': it is no name of a Kubernetes object (a DNS-1123 subdomain of at most 63 "
        "characters). Remedy: write 'kata', or other lower case letters, digits, '-' and '.'.",
    ),
    (
        "strategy",
        "image-volume",
        "strategy 'image-volume': it is no strategy. Remedy: write image_volume.",
    ),
]


@pytest.mark.parametrize(("option", "value", "sentence"), CASES)
def test_the_sentence_names_key_entry_what_is_wrong_and_the_remedy(option: str, value: Any, sentence: str) -> None:
    assert [str(problem) for problem in from_options({option: value}).problems] == [sentence]


@pytest.mark.parametrize(
    ("requirement", "told"),
    [
        (
            {"key": "disk", "operator": "In"},
            '{}: the operator In needs at least one value. Remedy: list at least one value in "values".',
        ),
        (
            {"key": "disk", "operator": "Gt", "values": ["1", "2"]},
            '{}: the operator Gt needs one number. Remedy: list one number in "values".',
        ),
        (
            {"key": "disk", "operator": "Exists", "values": ["a"]},
            "{}: the operator Exists takes no values. Remedy: remove the values.",
        ),
        (
            {"key": "disk", "operator": "in"},
            "{}.operator 'in' is unknown. Remedy: write one of In, NotIn, Exists, DoesNotExist, Gt, Lt.",
        ),
        (
            {"key": "my disk", "operator": "Exists"},
            "{}.key 'my disk' is no key of a label. Remedy: write the key of a label that you mean.",
        ),
        ({"operator": "Exists"}, "{} lacks the field key. Remedy: write key."),
        (
            {"key": "disk", "operator": "In", "values": "ssd"},
            "{}.values is a text, not a JSON list. Remedy: write a JSON list.",
        ),
    ],
)
def test_affinity_is_held_to_the_rules_of_the_api(requirement: Any, told: str) -> None:
    (problem,) = from_options({"affinity": _node_affinity(requirement)}).problems
    assert str(problem).endswith(f"': {told.format(_TERM)}")


@pytest.mark.parametrize(
    ("affinity", "what"),
    [
        (
            {
                "podAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {}}]
                }
            },
            [
                "podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight is 0",
                "podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm "
                "lacks the field topologyKey",
            ],
        ),
        (
            {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": [{"matchFields": [{"key": "x", "operator": "In"}]}]}}},
            [f"nodeAffinity.{_REQUIRED}.nodeSelectorTerms[0].matchFields[0]: the operator In needs at least one value"],
        ),
        (
            {"podAntiAffinity": {_REQUIRED: [{"topologyKey": "", "namespaces": ["A"]}]}},
            [
                f"podAntiAffinity.{_REQUIRED}[0].topologyKey '' is no key of a label",
                f"podAntiAffinity.{_REQUIRED}[0].namespaces[0] 'A' is no name of a namespace",
            ],
        ),
    ],
)
def test_all_that_is_wrong_in_an_affinity_is_told(affinity: Any, what: list[str]) -> None:
    assert [problem.what for problem in from_options({"affinity": affinity}).problems] == what


def test_every_problem_of_a_set_is_told_at_once() -> None:
    options = {
        "images": "java11;theia=r.io/theia:;Node=https://r.io/node",
        "namespace": "A",
        "caching_interval_hours": "0",
        "caching_memory_limit": "1Mi",
        "tolerations": [{"key": "a", "operator": "Is"}, {"effect": "x", "operator": "Exists"}],
    }
    with pytest.raises(InvalidSettings) as refused:
        require(from_options(options))
    lines = str(refused.value).splitlines()
    assert lines[0] == "The settings have 9 problems; nothing was changed."
    assert [line.split("'")[0] for line in lines[1:]] == [
        "- images, entry 1 ",
        "- images, entry 2 ",
        "- images, entry 3 ",
        "- images, entry 3 ",
        "- namespace ",
        "- caching_interval_hours ",
        "- tolerations, entry 1 ",
        "- tolerations, entry 2 ",
        "- caching_memory_limit ",
    ]


def test_a_config_map_is_told_of_by_its_own_keys() -> None:
    reading = from_config_map({"IMAGES": "java11", "CACHING_CPU_REQUEST": "1", "TOLERATIONS": "{}"})
    assert [str(problem).split(":")[0] for problem in reading.problems] == [
        "IMAGES, entry 1 'java11'",
        "TOLERATIONS '{}'",
        "CACHING_CPU_REQUEST '1'",
    ]
    assert "CACHING_CPU_LIMIT (.2, the default)" in str(reading.problems[-1])


def test_long_values_are_shortened() -> None:
    (problem,) = from_options({"node_selector": "x" * 5000}).problems
    assert str(problem).startswith(f"node_selector '{'x' * 117}...': ")
    assert len(str(problem)) < 300
