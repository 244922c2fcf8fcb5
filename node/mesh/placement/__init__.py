"""Which node hosts what, decided by each for itself: demand, ranking, and what it may cost."""
