"""What to do about an S3 that refuses, in words."""

from __future__ import annotations

import pytest
from botocore.exceptions import NoCredentialsError

from heliograph.exceptions import StorageError
from heliograph.utilities.s3 import s3_errors


def test_missing_credentials_are_told_with_the_ways_to_give_them() -> None:
    told = "s3://acme/x cannot be read"
    with pytest.raises(StorageError, match=f"{told}: Unable to locate") as no, s3_errors(StorageError, told):
        raise NoCredentialsError
    assert "AWS_ACCESS_KEY_ID" in no.value.hint
    assert "AWS_PROFILE" in no.value.hint
