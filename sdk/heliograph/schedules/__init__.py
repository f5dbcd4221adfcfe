"""When a flow runs by itself: clocks, and schedules that unite them."""

from heliograph.schedules import clocks
from heliograph.schedules.clocks import Clock, ClockEvent, CronClock, DatesClock, IntervalClock
from heliograph.schedules.schedules import CronSchedule, IntervalSchedule, Schedule

__all__ = [
    "Clock",
    "ClockEvent",
    "CronClock",
    "CronSchedule",
    "DatesClock",
    "IntervalClock",
    "IntervalSchedule",
    "Schedule",
    "clocks",
]
