"""A double of GitLab's API over real bare repositories: the ground of GitLab storage."""

from __future__ import annotations

from tests.contract.storages.hosts import HostGround
from tests.support.gitlab import gitlab

from heliograph.storage import GitLab

__all__ = ["gitlab"]


class GitLabGround(HostGround):
    """A project at GitLab and a clone of it."""

    kind = "gitlab"

    def at(self, name: str, token: str = "") -> GitLab:
        """Returns the storage of a project."""
        return GitLab(name, host=self.double.site(), access_token_secret=token or None)


GROUND = GitLabGround
