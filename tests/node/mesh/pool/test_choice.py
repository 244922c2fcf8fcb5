"""Which engine runs a model: the first that does not refuse it."""

import pytest

from aigrid.node.mesh.pool.choice import first_able
from aigrid.protocol.errors import Code, EngineError


class Attempts:
    def __init__(self, **codes: Code) -> None:
        self.codes = codes
        self.tried: list[str] = []

    async def __call__(self, engine: str) -> str:
        self.tried.append(engine)
        if engine in self.codes:
            raise EngineError(f"{engine} says no", self.codes[engine])
        return engine


async def test_the_first_engine_that_takes_the_model_has_it() -> None:
    attempts = Attempts(a=Code.UNSUPPORTED_MODEL, b=Code.UNSUPPORTED_QUANTISATION)
    assert await first_able(("a", "b", "c", "d"), attempts) == "c"
    assert attempts.tried == ["a", "b", "c"]


@pytest.mark.parametrize("code", [Code.ENGINE_CRASHED, Code.OUT_OF_MEMORY, Code.UNSAFE_FILE])
async def test_what_is_no_refusal_is_not_tried_elsewhere(code: Code) -> None:
    attempts = Attempts(a=code)
    with pytest.raises(EngineError) as caught:
        await first_able(("a", "b"), attempts)
    assert caught.value.code is code
    assert attempts.tried == ["a"]


async def test_where_all_refuse_the_first_is_heard() -> None:
    attempts = Attempts(a=Code.UNSUPPORTED_MODEL, b=Code.UNSUPPORTED_QUANTISATION)
    with pytest.raises(EngineError, match="a says no"):
        await first_able(("a", "b"), attempts)
