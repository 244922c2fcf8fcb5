"""From a request to a node that answers it, and on when that node fails."""
