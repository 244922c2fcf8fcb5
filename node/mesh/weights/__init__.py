"""A model's files on their way between nodes, in chunks that are checked one by one."""
