"""What this node remembers of how requests went, and whose word on quality counts here."""
