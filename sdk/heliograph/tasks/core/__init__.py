"""The tasks that Heliograph makes itself: for constants, collections, operators and decorated functions."""

from heliograph.tasks.core.collections import Dict, List, Set, Tuple
from heliograph.tasks.core.constants import Constant
from heliograph.tasks.core.function import FunctionTask
from heliograph.tasks.core.operators import GetItem

__all__ = ["Constant", "Dict", "FunctionTask", "GetItem", "List", "Set", "Tuple"]
