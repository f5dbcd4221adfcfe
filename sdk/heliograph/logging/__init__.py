"""Logging: the product's loggers, the format of a line on a terminal, and what of a line may cross the line.

All loggers are below `heliograph`. Lines go to standard output as `[time] LEVEL - name | message`. A handler given to
`attach_sink` also gets every line, with the indices of the task that said it.
"""

from __future__ import annotations

from heliograph.logging.crossing import LogMode, crossing_record
from heliograph.logging.handlers import attach_sink, child_logger, configure, detach_sink, get_logger

__all__ = ["LogMode", "attach_sink", "child_logger", "configure", "crossing_record", "detach_sink", "get_logger"]
