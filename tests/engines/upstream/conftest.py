from collections.abc import Iterator

import pytest
from tests.engines.upstream.servers import Server, running

from aigrid.engines.upstream.health import Health


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


@pytest.fixture(autouse=True)
def nobody_asks_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a worker the threads that ask servers end with the process; here with their test."""
    started: list[Health] = []
    start = Health.start

    def remembered(health: Health) -> None:
        started.append(health)
        start(health)

    monkeypatch.setattr(Health, "start", remembered)
    yield
    for health in started:
        health.stop()
