"""The way to the cluster that an agent launches in: the one that secrets are found by too."""

from __future__ import annotations

from heliograph.client.cluster import Access, find_access, open_pool

__all__ = ["Access", "find_access", "open_pool"]
