"""Where a model's server is, and the key to it: a file of mode 0600 beside its description.

It comes and goes with the model, and is never sent anywhere but to the model's own worker.
"""

from pathlib import Path
from typing import Final

import msgspec

from aigrid.engines.base import Endpoint
from aigrid.node.key_store.keys import write_private
from aigrid.protocol.limits import LIMITS

ENDPOINT_FILE: Final = "endpoint.json"
_MAX_BYTES: Final = 4 * (LIMITS.upstream_url_max_chars + LIMITS.upstream_key_max_bytes)


def write_endpoint(folder: Path, endpoint: Endpoint) -> None:
    """Put it into a model's folder, or replace what is there. Raises OSError."""
    write_private(folder / ENDPOINT_FILE, msgspec.json.encode(endpoint))


def read_endpoint(folder: Path) -> Endpoint | None:
    """What was written, or None where there is nothing of use."""
    path = folder / ENDPOINT_FILE
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Endpoint)
    except (OSError, ValueError):
        return None
