"""Typed tasks over any runtime that runs tensors.

A `Task` turns JSON input into tensors, has a `Runner` run them, and turns what comes out into the
JSON answer that its capability's schema describes. Runners are what engines provide; tasks know
nothing of runtimes, and engines nothing of tokenizers, images or labels.
"""

from aigrid.engines.tasks.base import Runner
from aigrid.engines.tasks.table import TASKS, Tasks

__all__ = ["TASKS", "Runner", "Tasks"]
