"""Who does it: the network, the mesh, the gateway, the command line, and the composition root."""
