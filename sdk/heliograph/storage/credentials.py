"""Which login is for which server.

A location never says which secret it wants: whoever writes locations could have any secret sent to any server. On an
agent its owner says so, by the setting `storage.tokens`; at registration the author's code may name it as well.
"""

from __future__ import annotations

from heliograph.config import config
from heliograph.exceptions import ConfigurationError, SecretNotFoundError, StorageError

__all__ = ["bound_secret", "secret_text"]


def bound_secret(host: str, path: str = "", *, scheme: str = "") -> str:
    """Returns the name of the secret for a server, or for what begins with `path` there; empty when there is none.

    The longest binding that fits wins. One that has a scheme, `ssh://host`, is for that alone, and no other serves it:
    a server's token is no key.

    Raises:
        ConfigurationError: If the setting is malformed.
    """
    place = f"{host.lower()}/{path.strip('/')}"
    best, chosen = "", ""
    for entry in config().storage.tokens:
        where, mark, name = entry.partition("=")
        if not mark or not where or not name:
            raise ConfigurationError(f"storage.tokens: {where!r} is not of the form host=NAME_OF_SECRET")
        named, marked, rest = where.partition("://")
        if (named.lower() if marked else "") != scheme:
            continue
        server, _, beginning = (rest if marked else where).partition("/")
        known = f"{server.lower()}/{beginning.strip('/')}".rstrip("/")
        if (place == known or place.startswith(f"{known}/")) and len(known) > len(best):
            best, chosen = known, name
    return chosen


def secret_text(name: str) -> str:
    """Returns a secret that is a text.

    Raises:
        StorageError: If it is not there, or is none.
    """
    from heliograph.client.secrets import Secret

    try:
        value = Secret(name).get()
    except SecretNotFoundError as error:
        raise StorageError(str(error), hint=error.hint) from error
    if isinstance(value, bool | dict | list) or value is None or not str(value):
        raise StorageError(f"the secret {name!r} is no token")
    return str(value)
