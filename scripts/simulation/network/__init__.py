"""The network between simulated nodes: the model, and real libp2p over pipes in memory."""
