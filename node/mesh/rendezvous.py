"""Rendezvous hashing (Thaler and Ravishankar 1998): the one order of nodes for each model. Pure.

Whoever sees the same nodes comes to the same order, and who should host a model comes first when it
is decided who keeps its files, too.
"""

import hashlib


def score(node: str, model: str) -> bytes:
    """The greater, the sooner. 0 bytes occur in neither name, so no two pairs look the same."""
    return hashlib.sha256(f"{node}\0{model}".encode()).digest()
