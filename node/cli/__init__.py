"""The command `aigrid`: parses, calls the node, prints. Everything it does, the node does."""

import sys


def main() -> int:
    """Run the command line of this process; the exit status."""
    from aigrid.node.cli.entry import run

    return run(sys.argv[1:])
