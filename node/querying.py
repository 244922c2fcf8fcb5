"""SPARQL over what this node believes: feeds the dataset process, asks it, and replaces it.

One query is evaluated at a time. A process that a query has brought down, or that had to be killed,
is replaced at once, so that the next query need not wait for that.
"""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from aigrid.metagraph import dataset_ipc as ipc
from aigrid.metagraph.feed import Feed
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.query import AnswerFormat, QueryForm, check_query, formats_of
from aigrid.node.query_process import DatasetLostError, DatasetProcess, StartDataset
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, LocalError
from aigrid.protocol.limits import LIMITS, Limits

log = structlog.get_logger()
_UPDATE_SECONDS = 30.0  # for a batch of at most a MiB


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """What came of a query, written in `answer_format`."""

    form: QueryForm
    answer_format: AnswerFormat
    body: bytes


class Querying:
    """Answers queries. `run` is a service; without `start` this node answers none."""

    def __init__(
        self,
        graph: Metagraph,
        *,
        start: StartDataset | None,
        now_ms: Callable[[], int],
        limits: Limits = LIMITS,
    ) -> None:
        self._start = start
        self._now_ms = now_ms
        self._limits = limits
        self._feed = Feed(graph)
        self._process: DatasetProcess | None = None
        self._turn = trio.Lock()
        self._waiting = 0
        self._used_at = -math.inf
        self._lost = trio.Event()
        self.replaced = 0

    @property
    def running(self) -> bool:
        """Whether there is a dataset process now."""
        return self._process is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Replace processes that were lost and end idle ones, until cancelled."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._replace)
                nursery.start_soon(self._end_idle)
        finally:
            if self._process is not None:
                await self._process.kill()
                self._process = None

    async def query(self, text: str, accepted: Sequence[AnswerFormat] = ()) -> QueryAnswer:
        """Evaluate a query; the answer is in the first of `accepted` that fits how it asks.

        Raises:
            InvalidRequestError: `query_malformed` or `query_refused`.
            AigridError: `query_too_expensive`, or `busy`.
        """
        form = check_query(text)
        fitting = formats_of(form)
        chosen = next((wanted for wanted in accepted if wanted in fitting), fitting[0])
        async with self._one_at_a_time():
            process = await self._current()
            try:
                report = await process.order(
                    ipc.Ask(text, chosen), seconds=self._limits.query_seconds
                )
            except DatasetLostError as error:
                self._forget()
                raise AigridError(
                    f"The query was stopped: {error}.", Code.QUERY_TOO_EXPENSIVE
                ) from None
            except trio.Cancelled:
                self._forget()
                raise
        return QueryAnswer(form, chosen, _body(report))

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        if self._start is None:
            raise LocalError("This node keeps no RDF dataset.", Code.ENVIRONMENT)
        if self._waiting >= self._limits.queries_waiting_max:
            raise AigridError("Too many queries are waiting.", Code.BUSY)
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1
            self._used_at = trio.current_time()

    async def _current(self) -> DatasetProcess:
        """The process, started if there is none, and brought up to date. Needs the turn."""
        if self._process is not None and self._process.ended:  # no query has to answer for that
            await self._process.kill()
            self._process = None
        if self._process is None:
            if self._start is None:
                raise RuntimeError("no way to start a dataset")
            self._process = await self._start()
            self._feed.start_over()
        process = self._process
        try:
            for update in self._feed.updates(self._now_ms()):
                await process.order(update, seconds=_UPDATE_SECONDS)
        except DatasetLostError as error:
            self._forget()
            raise AigridError(f"The dataset was lost: {error}.", Code.INTERNAL) from None
        except trio.Cancelled:
            await process.kill()
            self._forget()
            raise
        return process

    def _forget(self) -> None:
        self._process = None
        self._feed.stop()
        self._lost.set()

    async def _replace(self) -> None:
        while True:
            await self._lost.wait()
            self._lost = trio.Event()
            self.replaced += 1
            log.warning("dataset_replaced", replaced=self.replaced)
            async with self._turn:
                try:
                    await self._current()
                except AigridError as error:  # the next query tries again
                    self._lost = trio.Event()
                    log.warning("dataset_not_replaced", code=error.code.value)
            self._used_at = trio.current_time()

    async def _end_idle(self) -> None:
        while True:
            await trio.sleep(self._limits.dataset_idle_seconds / 2)
            idle = trio.current_time() - self._used_at
            if self._process is None or idle < self._limits.dataset_idle_seconds:
                continue
            async with self._turn:
                if self._process is not None:
                    await self._process.kill()
                    self._process = None
                    self._feed.stop()


def _body(report: ipc.Report) -> bytes:
    if isinstance(report, ipc.Answer):
        return report.body
    if isinstance(report, ipc.Failed):
        if report.code == Code.QUERY_TOO_EXPENSIVE:
            raise AigridError(report.message, Code.QUERY_TOO_EXPENSIVE)
        malformed = report.code == Code.QUERY_MALFORMED
        code = Code.QUERY_MALFORMED if malformed else Code.QUERY_REFUSED
        raise InvalidRequestError(report.message, code, param="query")
    raise AigridError("The query process answered out of turn.", Code.INTERNAL)
