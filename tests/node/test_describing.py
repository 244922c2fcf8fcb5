"""What a node says of itself costs nothing to look at."""

from types import SimpleNamespace
from typing import Any

import pytest

from aigrid.node import describing
from aigrid.node.settings.config import NodeConfig


def test_the_version_is_read_from_the_installation_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    read: list[str] = []

    def version(name: str) -> str:
        read.append(name)
        return "7.7"

    describing._software.cache_clear()
    monkeypatch.setattr(describing, "version", version)
    transport: Any = SimpleNamespace(listen_addresses=("/ip4/192.0.2.1/tcp/1",))
    config = NodeConfig(data_dir=tmp_path, name="n")
    try:
        said = [describing.describe(config, "did:key:z", transport, (), ()) for _ in range(3)]
    finally:
        describing._software.cache_clear()
    assert {body.software.split()[1] for body in said} == {"7.7"}
    assert len(read) == 1
