from collections.abc import Iterator

import pytest
from tests.engines.upstream.servers import Server, running


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found
