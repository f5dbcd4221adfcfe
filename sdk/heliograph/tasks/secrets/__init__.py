"""Tasks whose results are secrets: never stored, and scrubbed from log lines."""

from heliograph.tasks.secrets.base import SecretBase
from heliograph.tasks.secrets.env_var import EnvVarSecret
from heliograph.tasks.secrets.secret import Secret

__all__ = ["EnvVarSecret", "Secret", "SecretBase"]
