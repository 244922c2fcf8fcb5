"""What a model says of itself, read from its own files before it is published.

    path -> `read` -> `Draft` -> shown to a person -> description, manifest

Nothing is loaded and nothing of a model runs: headers, configurations and cards are data, read with
bounds. What is not said is left empty, and never invented.
"""

from aigrid.engines.draft import Draft
from aigrid.engines.metadata.reading import read

__all__ = ["Draft", "read"]
