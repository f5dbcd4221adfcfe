"""A double of GitHub's API over real bare repositories: the ground of GitHub storage."""

from __future__ import annotations

from typing import cast

from tests.contract.storages.hosts import HostGround
from tests.support.github import GitHubDouble, github

from heliograph.storage import GitHub

__all__ = ["github"]


class GitHubGround(HostGround):
    """A repository at GitHub and a clone of it."""

    kind = "github"

    def at(self, name: str, token: str = "") -> GitHub:
        """Returns the storage of a repository."""
        return GitHub(name, base_url=cast("GitHubDouble", self.double).base_url, access_token_secret=token or None)


GROUND = GitHubGround
