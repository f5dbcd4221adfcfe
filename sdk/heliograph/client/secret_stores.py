"""Secret stores of the user's own infrastructure: AWS Secrets Manager and Parameter Store, Vault's API, Kubernetes.

The setting `storage.secret_stores` lists them, and they are asked in that order after everything on the machine:

    aws-secrets-manager:PREFIX    the secret PREFIX + NAME
    aws-ssm:PREFIX                the parameter PREFIX + NAME, decrypted
    vault:MOUNT/PREFIX            KV version 2 at MOUNT, path PREFIX/NAME; the field `value`, else all fields
    kubernetes:NAMESPACE/SECRET   the key NAME of that Secret; without NAMESPACE, the pod's own or the context's

Credentials are those that the tools of each have: boto3's own chain; VAULT_ADDR and VAULT_TOKEN (and VAULT_NAMESPACE,
VAULT_CACERT); the pod's service account, or else the kubeconfig.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from heliograph.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SECONDS = 10
_MISSING = ("ResourceNotFoundException", "ParameterNotFound")
_WAYS = "aws-secrets-manager:PREFIX, aws-ssm:PREFIX, vault:MOUNT/PREFIX or kubernetes:NAMESPACE/SECRET"


def find_in_stores(stores: Sequence[str], name: str) -> Any:
    """Returns a secret from the first store that has it; None when none has.

    Args:
        stores: The stores, as the setting has them.
        name: Name of the secret.

    Raises:
        ConfigurationError: A store is not known, cannot be reached, or does not let us read. What it says is told
            without any value.
    """
    return next((value for _, value in _answers(stores, name)), None)


def store_with(stores: Sequence[str], name: str) -> str | None:
    """Returns the first store that has a secret, found as a run finds it; None when none has.

    Args:
        stores: The stores, as the setting has them.
        name: Name of the secret.

    Raises:
        ConfigurationError: As `find_in_stores`.
    """
    return next((store for store, _ in _answers(stores, name)), None)


def _answers(stores: Sequence[str], name: str) -> Iterator[tuple[str, Any]]:
    for store in stores:
        kind, colon, place = store.partition(":")
        look = _KINDS.get(kind)
        if look is None or not colon:
            raise ConfigurationError(f"{store!r} is no secret store", hint=f"storage.secret_stores takes {_WAYS}.")
        value = look(place, name)
        if value is not None:
            yield store, value


def _from_secrets_manager(prefix: str, name: str) -> Any:
    def ask(client: Any) -> Any:
        found = client.get_secret_value(SecretId=f"{prefix}{name}")
        return found["SecretString"] if "SecretString" in found else found["SecretBinary"].decode("utf-8")

    return _aws("secretsmanager", f"aws-secrets-manager:{prefix}{name}", ask)


def _from_parameters(prefix: str, name: str) -> Any:
    def ask(client: Any) -> Any:
        return client.get_parameter(Name=f"{prefix}{name}", WithDecryption=True)["Parameter"]["Value"]

    return _aws("ssm", f"aws-ssm:{prefix}{name}", ask)


def _aws(service: str, shown: str, ask: Callable[[Any], Any]) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise ConfigurationError(
            f"{shown} needs boto3, which is not installed", hint="Install it with: pip install 'heliograph[aws]'"
        ) from error
    limits = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 3})
    try:
        make: Any = boto3.client  # the stubs know each service by its literal name only
        return ask(make(service, config=limits))
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            return None
        raise ConfigurationError(
            f"{shown} cannot be read: {code}", hint="Check the role or key of this process, and what it may read."
        ) from None
    except (BotoCoreError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{shown} cannot be read: {type(error).__name__}", hint="Check region, endpoint and credentials."
        ) from None


def _from_vault(place: str, name: str) -> Any:
    try:
        import hvac  # type: ignore[import-untyped]
        import hvac.exceptions  # type: ignore[import-untyped]
        import requests
    except ImportError as error:
        raise ConfigurationError(
            "vault: needs hvac, which is not installed", hint="Install it with: pip install 'heliograph[vault]'"
        ) from error
    mount, _, prefix = place.partition("/")
    path = "/".join(part for part in (prefix.strip("/"), name) if part)
    shown = f"vault:{mount}/{path}"
    if not os.environ.get("VAULT_ADDR"):
        raise ConfigurationError(
            f"{shown}: VAULT_ADDR is not set", hint="Name the server: VAULT_ADDR=https://HOST:8200"
        )
    client = hvac.Client(timeout=SECONDS, namespace=os.environ.get("VAULT_NAMESPACE"))
    try:
        answer = client.secrets.kv.v2.read_secret_version(path=path, mount_point=mount, raise_on_deleted_version=True)
    except hvac.exceptions.InvalidPath:
        return None
    except hvac.exceptions.VaultError as error:
        raise ConfigurationError(
            f"{shown} cannot be read: {type(error).__name__}", hint="Check VAULT_TOKEN and the policy of its role."
        ) from None
    except requests.RequestException as error:
        raise ConfigurationError(
            f"{shown} cannot be read: {type(error).__name__}", hint="Check VAULT_ADDR and VAULT_CACERT."
        ) from None
    finally:
        client.adapter.close()
    fields = answer["data"]["data"]
    return fields.get("value", fields)


def _from_kubernetes(place: str, name: str) -> Any:
    from heliograph.client.cluster import find_access, open_pool

    namespace, _, secret = place.rpartition("/")
    shown = f"kubernetes:{place}"
    if not secret:
        raise ConfigurationError(f"{shown} names no Secret", hint=f"storage.secret_stores takes {_WAYS}.")
    access = find_access()
    pool = open_pool(access, 1)
    import urllib3.exceptions

    path = f"/api/v1/namespaces/{quote(namespace or access.namespace, safe='')}/secrets/{quote(secret, safe='')}"
    try:
        answer = pool.request("GET", access.host + path, headers=dict(access.headers()), timeout=float(SECONDS))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ConfigurationError(
            f"{shown} cannot be read: {type(error).__name__}", hint="Check that the cluster's API can be reached."
        ) from None
    finally:
        pool.clear()
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise ConfigurationError(
            f"{shown} cannot be read: status {answer.status}",
            hint="The pod's service account needs `get` on that Secret, and the run config must name the account.",
        )
    try:
        text = (json.loads(answer.data).get("data") or {}).get(name)
        return None if text is None else base64.b64decode(text).decode("utf-8")
    except (ValueError, AttributeError):
        raise ConfigurationError(f"{shown} cannot be read: {name} there is no text") from None


_KINDS: dict[str, Callable[[str, str], Any]] = {
    "aws-secrets-manager": _from_secrets_manager,
    "aws-ssm": _from_parameters,
    "vault": _from_vault,
    "kubernetes": _from_kubernetes,
}
