from tests.support.home import home
from tests.support.seaweed import s3, s3_server

__all__ = ["home", "s3", "s3_server"]
