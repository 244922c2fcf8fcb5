"""Members of a simulated grid that mean ill, and what they fail at."""
