"""When a flow runs by itself: clocks and schedules."""
