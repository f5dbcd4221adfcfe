"""What git and ssh mean when they say no: the line with the reason, and what to do about it."""

from __future__ import annotations

from heliograph.storage.git_login import Login, SshKey

__all__ = ["NO_CONNECTION", "hint", "reason"]

NO_CONNECTION = "fatal: Could not read from remote repository."
"""What git says in the end when there was no connection by ssh."""
_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"


def reason(text: str, protocol: str = "") -> str:
    """Returns the line that says what went wrong: servers send banners before it, git advice after it."""
    lines = [line for line in text.splitlines() if line.startswith(("fatal:", "error:", "remote:", "ERROR:"))]
    if protocol == "ssh" and NO_CONNECTION in lines:
        lines = [line for line in lines if line != NO_CONNECTION] or [_ssh_reason(text) or NO_CONNECTION]
    return "; ".join(dict.fromkeys(lines)) or text or "no reason given"


def _ssh_reason(text: str) -> str:
    """Returns the line in which ssh says why there was no connection: the last one before git's own words."""
    before = text.partition(NO_CONNECTION)[0].splitlines()
    said = [line.strip() for line in before if line.strip() and not line.startswith("@")]
    if said and _CHANGED in text:
        return f"the server's key is not the one in known_hosts: {said[-1]}"
    return said[-1] if said else ""


def hint(text: str, protocol: str, host: str, login: Login | SshKey | None) -> str:
    """Returns what to do about it; empty where nobody knows."""
    if protocol == "ssh" and (found := _ssh_hint(text, host, login if isinstance(login, SshKey) else None)):
        return found
    if any(word in text for word in ("could not read Username", "Authentication failed", "error: 401", "error: 403")):
        if login is not None:
            return f"The server refuses the login that is here for {host}: is the token expired, or too narrow?"
        return f"{host} wants a login: name a secret in the setting storage.tokens, {host}=NAME_OF_SECRET."
    if "error: 30" in text:
        return "The repository moved. Give its new address: a login must not follow to a place that nobody named."
    if "dubious ownership" in text:
        return "The folder belongs to another user: git config --global --add safe.directory FOLDER allows it."
    if any(words in text for words in ("not found", "does not exist", "does not appear to be")):
        return "The name is wrong, or the repository is private and there is no login for it here (storage.tokens)."
    return ""


def _ssh_hint(text: str, host: str, key: SshKey | None) -> str:
    """Returns what to do about what ssh said; empty when it is another's."""
    if _CHANGED in text:
        return (
            "Somebody may stand between. Ask the server's operator whether its key was replaced; only then correct "
            "known_hosts (ssh-keygen -R)."
        )
    if "Host key verification failed" in text:
        return "Put the server's key, as its operator tells it, into known_hosts of this machine's user."
    if key is not None and ("Load key" in text or "invalid format" in text):
        return f"The secret {key.name!r} is no whole private key, or has a passphrase, which nobody is asked for."
    if "Permission denied" in text:
        if key is not None:
            return f"The server refuses the key in the secret {key.name!r}: add its public half there, to read."
        return (
            "Give this machine's user a key that the server knows, or bind one that is a secret: the setting "
            f"storage.tokens, ssh://{host}=NAME_OF_SECRET."
        )
    if "cannot run ssh" in text:
        return "Install an ssh client where this runs (Debian: openssh-client)."
    if "Could not resolve hostname" in text or "connect to host" in text:
        return "Is the address right, and can this machine reach it?"
    return ""
