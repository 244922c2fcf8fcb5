"""Hypothesis profiles. `--hypothesis-profile=ci` (or CI in the environment) repeats exactly."""

import os

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
