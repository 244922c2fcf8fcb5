"""What is known on the grid: verified records, the index that routing uses, and the one choice.

Synchronous and without a clock: time (`now_ms`, wall time in milliseconds) and randomness are
arguments. `graph.Metagraph` is the way in.
"""
