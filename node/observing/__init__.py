"""What an operator can see of requests: numbers, traces, and one line in the log for each."""
