"""The node's own keys on the disk: protected, changed, and retired."""
