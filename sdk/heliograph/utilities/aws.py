"""The one way to a client of an AWS service on the user's side."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from heliograph.exceptions import ConfigurationError

__all__ = ["aws_client", "error_code"]

_lock = threading.Lock()
_loader: Any = None
"""Reads botocore's descriptions of services once for all clients: they are four fifths of what a client costs."""


def aws_client(
    service: str, options: Mapping[str, Any] | None = None, *, name: str, region: str = "", **defaults: Any
) -> Any:
    """Makes a client. Credentials come from boto3's own chain: environment, profile, role.

    Args:
        service: Name of the service, as boto3 has it.
        options: Keyword arguments of `boto3.client`.
        name: What the service is called in messages.
        region: Region when neither the options nor the environment say one; empty when that is an error.
        **defaults: Settings of botocore's `Config`, when the options have none.

    Raises:
        ConfigurationError: If boto3 is not installed, or refuses the options.
    """
    try:
        import boto3
        import botocore.session
        from botocore.config import Config as BotoConfig
        from botocore.exceptions import BotoCoreError, NoRegionError
    except ImportError as error:
        raise ConfigurationError(
            f"{name} needs boto3, which is not installed", hint="Install it with: pip install 'heliograph[aws]'"
        ) from error
    global _loader
    given = dict(options or {})
    given.setdefault("config", BotoConfig(retries={"max_attempts": 5, "mode": "standard"}, **defaults))
    try:
        with _lock:  # boto3 sessions are not safe to share between threads; clients are
            core = botocore.session.get_session()
            if _loader is None:
                _loader = core.get_component("data_loader")
            core.register_component("data_loader", _loader)
            session = boto3.session.Session(botocore_session=core)
            if region and session.region_name is None:
                given.setdefault("region_name", region)
            make: Any = session.client  # its stubs know services by literal names alone
            return make(service, **given)
    except NoRegionError as error:
        raise ConfigurationError(
            f"no region is given for {name}", hint="Set AWS_DEFAULT_REGION, or give client_options={'region_name': …}."
        ) from error
    except (BotoCoreError, TypeError, ValueError) as error:
        raise ConfigurationError(f"no {name} client can be made: {error}") from error


def error_code(error: BaseException) -> str:
    """Returns AWS' code of an error (`NoSuchKey`, `AccessDenied`, `ThrottlingException`), or an empty string."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))
