"""What is said on the grid: identities, records, messages, codes and limits.

Pure: nothing here reads a clock, draws a random number or does I/O; both are arguments.
"""
