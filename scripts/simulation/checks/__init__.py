"""What must hold in a simulated grid, and whether a run may be called well."""
