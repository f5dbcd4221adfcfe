"""What every test shares: how hypothesis works on a machine whose processors are busy with other tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Generating is slow when two test processes share two cores; that says nothing about the code under test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("shared")
