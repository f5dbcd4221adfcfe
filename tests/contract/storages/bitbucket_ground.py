"""A double of a Bitbucket server's API over real bare repositories: the ground of Bitbucket storage."""

from __future__ import annotations

from collections.abc import Iterator

from tests.contract.storages.ground import Damage
from tests.contract.storages.hosts import HostGround
from tests.support.bitbucket import bitbucket

from heliograph.storage import Bitbucket
from heliograph.storage.base import BundleRef

__all__ = ["bitbucket"]


class BitbucketGround(HostGround):
    """A repository at a Bitbucket server and a clone of it."""

    kind = "bitbucket"
    unseen = "answers 401"

    def at(self, name: str, token: str = "") -> Bitbucket:
        """Returns the storage of a repository."""
        project, _, repo = name.partition("/")
        return Bitbucket(project, repo, host=self.double.site(), access_token_secret=token or None)

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields what changes the bundle: a link is left out of it, and nothing tells that it should not be there."""
        return (damage for damage in super().damages(ref) if "a link" not in damage.name)


GROUND = BitbucketGround
