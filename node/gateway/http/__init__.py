"""HTTP itself: connections, TLS, the boundary that every request passes, and what it keeps out."""
