"""Hypothesis profiles. `--hypothesis-profile=ci` (or CI in the environment) repeats exactly."""

import os

from hypothesis import HealthCheck, settings

# A loaded machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", calm)
settings.register_profile("ci", calm, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
