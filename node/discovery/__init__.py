"""Who is in the grid and what they say: membership, liveness, announcing, gossip and sync."""
