"""Who calls: keys of ours, and requests that callers sign themselves."""
