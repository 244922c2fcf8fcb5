"""Calls at the end of a pass of the scheduler."""

from functools import partial

import trio

from aigrid.node.network.pass_end import pass_end


async def test_called_once_when_all_who_could_run_have_run() -> None:
    log: list[str] = []

    async def task(name: str) -> None:
        log.append(name)
        if name == "a":
            pass_end().call(lambda: log.append("end"))
        await trio.sleep_forever()

    with trio.move_on_after(0.05):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(task, name)
    assert sorted(log[:3]) == ["a", "b", "c"]
    assert log[3:] == ["end"]


async def test_soon_wakes_whoever_sleeps() -> None:
    woken = trio.Event()
    pass_end().call(lambda: pass_end().soon(woken.set))
    with trio.fail_after(5):
        await woken.wait()


def fail() -> None:
    raise RuntimeError


async def test_one_that_fails_stops_no_other() -> None:
    for _ in range(2):  # and the instrument is still there the second time
        called = trio.Event()
        pass_end().call(fail)
        pass_end().call(partial(pass_end().soon, called.set))
        with trio.fail_after(5):
            await called.wait()
