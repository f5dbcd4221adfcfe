"""A double of Bitbucket Cloud over real bare repositories: the ground of Bitbucket storage with a workspace."""

from __future__ import annotations

from tests.contract.storages.hosts import HostGround
from tests.support.bitbucket_cloud import bitbucket_cloud

from heliograph.storage import Bitbucket

__all__ = ["bitbucket_cloud"]


class BitbucketCloudGround(HostGround):
    """A repository at Bitbucket Cloud and a clone of it."""

    kind = "bitbucket"
    double_name = "bitbucket_cloud"

    def at(self, name: str, token: str = "") -> Bitbucket:
        """Returns the storage of a repository."""
        workspace, _, repo = name.partition("/")
        return Bitbucket("", repo, workspace, self.double.site(), access_token_secret=token or None)


GROUND = BitbucketCloudGround
