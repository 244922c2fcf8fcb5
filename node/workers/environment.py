"""All that a worker sees of the node's environment."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ENVIRONMENT_KEPT: Final = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP"),
        *("PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    }
)
"""All that a worker sees of the node's environment: no tokens, no keys, no home."""

QUIET: Final = {"ORT_DISABLE_TELEMETRY": "1"}
"""Newer onnxruntimes make an id of the machine and keep a database of events, to be sent off."""

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

ORDERED: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Cards are numbered as their driver numbers them, and not the fastest first."""


def worker_environment(more: Mapping[str, str]) -> dict[str, str]:
    """What of this process's environment a worker gets, and `more`."""
    kept = {name: value for name, value in os.environ.items() if name in ENVIRONMENT_KEPT}
    return {**kept, **QUIET, **ORDERED, **more}
