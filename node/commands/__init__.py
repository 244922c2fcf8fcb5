"""What the command line and the status page ask of a running node."""
