"""How nodes reach each other. Only this folder imports libp2p."""
