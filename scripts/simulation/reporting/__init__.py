"""What is told of simulated runs: as data, as a page, as lines."""
