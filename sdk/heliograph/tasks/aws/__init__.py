"""Tasks for Amazon's services, and those that speak the same protocols. They need `heliograph[aws]`."""

from heliograph.tasks.aws.s3 import S3Download, S3List, S3Upload

__all__ = ["S3Download", "S3List", "S3Upload"]
