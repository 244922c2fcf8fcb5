"""Which models are loaded here: leases, memory, workers, and what keeps crashing."""
