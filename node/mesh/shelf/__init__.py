"""The models on the disk of this node: how they get there, what is offered, and what goes."""
