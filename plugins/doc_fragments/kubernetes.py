# Copyright: Image Puller contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection options of every module, the same as those of kubernetes.core."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``extends_documentation_fragment: kubecache.image_puller.kubernetes``."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of a kubeconfig file, or its content as a mapping.
      - The environment variable E(K8S_AUTH_KUBECONFIG) is used if this is not set.
      - >-
        Without any connection option the module uses the service account if it runs in a pod, else the file that
        E(KUBECONFIG) names, else C(~/.kube/config).
    type: raw
  context:
    description:
      - Name of a context of the kubeconfig.
      - The environment variable E(K8S_AUTH_CONTEXT) is used if this is not set, else the current context.
    type: str
  host:
    description:
      - URL of the API server, for example V(https://api.example.com:6443).
      - Together with O(api_key), with O(client_cert) and O(client_key), or with O(username) and O(password)
        no kubeconfig is read.
      - The environment variable E(K8S_AUTH_HOST) is used if this is not set.
    type: str
  api_key:
    description:
      - Bearer token, for example of a service account or from C(oc whoami --show-token).
      - The environment variable E(K8S_AUTH_API_KEY) is used if this is not set.
    type: str
  username:
    description:
      - User of HTTP basic authentication, which API servers no longer offer but proxies before them may.
      - The environment variable E(K8S_AUTH_USERNAME) is used if this is not set.
    type: str
  password:
    description:
      - Password that belongs to O(username).
      - The environment variable E(K8S_AUTH_PASSWORD) is used if this is not set.
    type: str
  client_cert:
    description:
      - Path of the client certificate, in PEM form.
      - The environment variable E(K8S_AUTH_CLIENT_CERT) or E(K8S_AUTH_CERT_FILE) is used if this is not set.
    type: path
    aliases: [cert_file]
  client_key:
    description:
      - Path of the private key that belongs to O(client_cert), in PEM form.
      - The environment variable E(K8S_AUTH_CLIENT_KEY) or E(K8S_AUTH_KEY_FILE) is used if this is not set.
    type: path
    aliases: [key_file]
  ca_cert:
    description:
      - Path of the certificates, in PEM form, of the authority that signed the API server's certificate, up to
        its root.
      - The environment variable E(K8S_AUTH_CA_CERT) or E(K8S_AUTH_SSL_CA_CERT) is used if this is not set.
    type: path
    aliases: [ssl_ca_cert]
  validate_certs:
    description:
      - Whether the API server's certificate must be valid.
      - The environment variable E(K8S_AUTH_VALIDATE_CERTS) or E(K8S_AUTH_VERIFY_SSL) is used if this is not set,
        else the kubeconfig decides.
    type: bool
    aliases: [verify_ssl]
  proxy:
    description:
      - URL of the HTTP proxy on the way to the API server.
      - The environment variable E(K8S_AUTH_PROXY) is used if this is not set.
    type: str
  no_proxy:
    description:
      - Hosts, domains and networks that are reached without O(proxy), separated by commas, for example
        V(localhost,.example.com,10.0.0.0/8).
      - The environment variable E(K8S_AUTH_NO_PROXY) is used if this is not set.
    type: str
  proxy_headers:
    description:
      - What to send to the O(proxy).
    type: dict
    suboptions:
      proxy_basic_auth:
        description:
          - User and password for the proxy, as V(user:password).
          - The environment variable E(K8S_AUTH_PROXY_HEADERS_PROXY_BASIC_AUTH) is used if O(proxy_headers) is not set.
        type: str
      basic_auth:
        description:
          - User and password for the C(Authorization) header, as V(user:password).
          - The environment variable E(K8S_AUTH_PROXY_HEADERS_BASIC_AUTH) is used if O(proxy_headers) is not set.
        type: str
      user_agent:
        description:
          - Value of the C(User-Agent) header.
          - The environment variable E(K8S_AUTH_PROXY_HEADERS_USER_AGENT) is used if O(proxy_headers) is not set.
        type: str
  persist_config:
    description:
      - Whether a token that was refreshed during the connection is written back to the kubeconfig file.
      - The environment variable E(K8S_AUTH_PERSIST_CONFIG) is used if this is not set.
    type: bool
  impersonate_user:
    description:
      - User in whose name the requests are made.
      - The environment variable E(K8S_AUTH_IMPERSONATE_USER) is used if this is not set.
    type: str
  impersonate_groups:
    description:
      - Groups in whose name the requests are made, together with O(impersonate_user).
      - The environment variable E(K8S_AUTH_IMPERSONATE_GROUPS), separated by commas, is used if this is not set.
    type: list
    elements: str
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0 (the Python library)
  - kubernetes.core >= 6.2.0 (the collection)
"""
