"""Child processes that run engines: how they start, wait, answer and end."""
