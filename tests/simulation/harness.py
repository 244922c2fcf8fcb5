"""Whole nodes in virtual time: what the tests use of `scripts/simulation/world.py`."""

from scripts.simulation.world import (
    START_MS,
    MemoryKeys,
    SimNode,
    Simulation,
    eventually,
    run_inline,
)

__all__ = ["START_MS", "MemoryKeys", "SimNode", "Simulation", "eventually", "run_inline"]
