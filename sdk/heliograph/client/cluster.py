"""The way to a cluster: the pod's service account, or a kubeconfig with its contexts, commands and certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    import urllib3

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Access:
    """How a cluster is reached.

    Attributes:
        host: Its address, `https://HOST:PORT`.
        namespace: Namespace of the context, or of this pod; `default` where none is named.
        headers: Returns the headers that say who asks: fresh ones when the old are spent.
        tls: Keyword arguments of a connection pool.
        proxy: Proxy to go through; empty means none.
    """

    host: str
    namespace: str
    headers: Callable[[], Mapping[str, str]] = field(repr=False)
    tls: Mapping[str, Any] = field(repr=False)
    proxy: str = ""


def find_access(kubeconfig: str = "", context: str = "") -> Access:
    """Returns the way to the cluster that is meant.

    Args:
        kubeconfig: A kubeconfig; empty means the pod's service account, then `KUBECONFIG`, then `~/.kube/config`.
        context: Context of the kubeconfig; empty means the current one.

    Raises:
        InvalidArgumentError: The package is not installed.
        ConfigurationError: There is no way, or it cannot be read.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise InvalidArgumentError(
            "Kubernetes needs its client's package", hint="pip install 'heliograph[kubernetes]'"
        ) from error
    found: Any = client.Configuration()
    loader: Any = config  # it has no types
    inside = not (kubeconfig or context) and "KUBERNETES_SERVICE_HOST" in os.environ and NAMESPACE_FILE.exists()
    try:
        if inside:
            loader.load_incluster_config(client_configuration=found)
            namespace = NAMESPACE_FILE.read_text().strip()
        else:
            # The package looks at KUBECONFIG when it is imported, and no later.
            path = str(Path(kubeconfig).expanduser()) if kubeconfig else os.environ.get("KUBECONFIG") or None
            loader.load_kube_config(path, context=context or None, client_configuration=found, persist_config=False)
            contexts, current = loader.list_kube_config_contexts(path)
            chosen: Any = next((one for one in contexts if one["name"] == context), current)
            namespace = str((chosen.get("context") or {}).get("namespace") or "default")
    except (loader.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"there is no way to a cluster: {error}",
            hint="Run the agent in a pod with a service account, or name a file with --kubeconfig.",
        ) from error
    return Access(str(found.host).rstrip("/"), namespace, lambda: _headers(found), _tls(found), str(found.proxy or ""))


def open_pool(access: Access, connections: int) -> urllib3.PoolManager:
    """Returns a pool of connections to a cluster, without tries of its own."""
    import urllib3

    keywords: dict[str, Any] = {"maxsize": connections, "retries": False, **access.tls}
    return urllib3.ProxyManager(access.proxy, **keywords) if access.proxy else urllib3.PoolManager(**keywords)


def _headers(found: Any) -> dict[str, str]:
    """Returns what a configuration says of who asks. Tokens of commands and of pods are renewed by it."""
    settings = found.auth_settings()
    return {str(one["key"]): str(one["value"]) for one in settings.values() if one.get("in") == "header"}


def _tls(found: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED" if found.verify_ssl else "CERT_NONE"}
    for key, name in (("ca_certs", "ssl_ca_cert"), ("cert_file", "cert_file"), ("key_file", "key_file"),
                      ("server_hostname", "tls_server_name")):  # fmt: skip
        if value := getattr(found, name, None):
            made[key] = value
    if found.assert_hostname is not None:
        made["assert_hostname"] = found.assert_hostname
    return made
