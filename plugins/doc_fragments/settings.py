# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The options that say which set of images is meant, and what it is made from."""

    NAMES = r"""
options:
  namespace:
    description:
      - The namespace of the Image Puller.
    type: str
    default: k8s-image-puller
  config_map_name:
    description:
      - The ConfigMap that holds the settings. One ConfigMap is one set of images.
    type: str
    default: k8s-image-puller
"""

    DEPLOYMENT = r"""
options:
  deployment_name:
    description:
      - The Deployment of the controller.
    type: str
    default: kubernetes-image-puller
"""

    LOCK = r"""
options:
  lock:
    description:
      - A lock file, on the host where the module runs. It says which digest each reference stood for, and nodes that
        have another one under that name count as V(failed) with the class V(other_digest).
      - What is pulled stays the reference that consumers use.
    type: path
"""

    LOCK_UPDATE = r"""
options:
  lock_update:
    description:
      - Whether to ask the registries what each reference stands for now, and to write O(lock) anew. What is still so
        keeps its time. It is written only with this, and not in check mode.
      - Without, a lock that is not there, is damaged, or is not that of the list is refused before anything is changed.
    type: bool
    default: false
"""

    REGISTRY = r"""
options:
  registry_auth_file:
    description:
      - A file with logins for registries in the form of Docker or Podman (C(config.json), C(auth.json)), on the host
        where the module runs. It is used beside the pull secrets, to ask registries and for nothing else.
    type: path
  registry_mirrors:
    description:
      - Where images may be asked for before their registry is, a mapping from a registry (or the beginning of a path
        there) to what stands in its place, or a list of that.
    type: dict
  registry_insecure:
    description:
      - Registries, with their port, whose certificate need not be trusted. Written with C(http://) in front they are
        asked without TLS.
    type: list
    elements: str
  registry_ca_file:
    description:
      - A file in the form PEM with certificates of authorities to trust besides those of the system, on the host where
        the module runs.
    type: path
"""

    DOCUMENTATION = r"""
options:
  images:
    description:
      - The images to cache, each with a name, which is a DNS-1123 label.
      - A list of mappings with C(name) and C(image), a mapping from name to image, or the text of the ConfigMap's key
        C(IMAGES), C(name=image;name=image).
      - When left out, M(kubecache.image_puller.image_puller_install) and M(kubecache.image_puller.image_puller_config)
        keep the list of an existing installation. For a fresh one they take the default list and say so.
    type: raw
  daemonset_name:
    description:
      - The name of the DaemonSet. Default V(kubernetes-image-puller).
    type: str
  daemonset_annotations:
    description:
      - Annotations of the DaemonSet, as a mapping or as JSON or YAML text.
    type: raw
  caching_interval_hours:
    description:
      - Hours between two health checks of the controller, a number above 0. Default V(1).
    type: str
  caching_memory_request:
    description:
      - Memory request for each cached image. Default V(10Mi).
    type: str
  caching_memory_limit:
    description:
      - Memory limit for each cached image. Default V(20Mi).
    type: str
  caching_cpu_request:
    description:
      - CPU request for each cached image. Default V(.05).
    type: str
  caching_cpu_limit:
    description:
      - CPU limit for each cached image. Default V(.2).
    type: str
  node_selector:
    description:
      - Labels of the nodes that cache the images, as a mapping or as JSON or YAML text. Default are all Linux nodes.
    type: raw
  affinity:
    description:
      - Affinity of the cache's pods, as a mapping or as JSON or YAML text.
    type: raw
  tolerations:
    description:
      - Tolerations of the cache's pods, as a list or as JSON or YAML text. Default are none.
    type: raw
  image_pull_secrets:
    description:
      - Names of the secrets with which the nodes pull, as a list or as text separated by V(;).
    type: raw
  helper_image:
    description:
      - The image from which the C(sleep) command of the cache's containers comes.
    type: str
  max_unavailable:
    description:
      - How many nodes may exchange their pod at a time when the list changes, a number or a percentage. Default V(10%).
    type: str
  strategy:
    description:
      - How an image is held on a node. Default V(sleep).
      - With V(sleep) each image runs a C(sleep) that comes from O(helper_image); works everywhere.
      - With V(image_volume) the helper sleeps and mounts the image, read-only, and nothing of the image is ever run. It
        needs Kubernetes 1.35 (or 1.33 with the feature switched on) and containerd 2.1 or CRI-O 1.31 on each node that
        matches; nodes that can't are named, and nothing is changed. From Kubernetes 1.34 on its pods ask for a fixed
        10m of CPU and 32Mi of memory, and not for O(caching_cpu_request) and the like for each image.
      - With V(auto) it is V(image_volume) where each node that matches can and admission lets such pods in, else
        V(sleep). What was chosen stays when nodes join.
    type: str
  new_node_grace:
    description:
      - Seconds for which a node that has just joined is excused, while it has no pod of the cache yet. Default V(60).
    type: str
  progress_grace:
    description:
      - Seconds for which images may be on their way without any progress, before that counts as V(Degraded) and no
        longer as V(Progressing). Each progress begins them anew. Default V(600).
    type: str
  priority_class_name:
    description:
      - PriorityClass of the cache's pods. Default is the class V(image-puller-cache), which
        M(kubecache.image_puller.image_puller_install) makes.
    type: str
  cache_service_account_name:
    description:
      - ServiceAccount of the cache's pods. Default is the account V(image-puller-cache), which has no rights and which
        M(kubecache.image_puller.image_puller_install) makes.
    type: str
  pod_labels:
    description:
      - Further labels of the cache's pods, for policies that ask for them, as a mapping or as JSON or YAML text.
      - Those by which the pods are known can't be changed by it, which are C(kubecache.io/*),
        C(app.kubernetes.io/name), C(app.kubernetes.io/component), C(app.kubernetes.io/managed-by) and those of the
        DaemonSet's selector.
    type: raw
  pod_annotations:
    description:
      - Further annotations of the cache's pods, as a mapping or as JSON or YAML text.
      - Those of O(daemonset_annotations) are on the DaemonSet alone.
    type: raw
  runtime_class_name:
    description:
      - RuntimeClass of the cache's pods, which has to exist. Where a class has a handler with images of its own, images
        are only there for the pods that have this class, too.
    type: str
  refresh:
    description:
      - What the controller does about tags that are moved in their registry. References with a digest never move.
      - With V(digest), the default, it asks the registry once for the cluster in each O(caching_interval_hours) what
        each tag stands for, and acts only where that changed.
      - With V(restart) it asks nothing, and has all tags pulled anew and all pods exchanged in each interval.
      - With V(never) the nodes keep what they have.
    type: str
"""
