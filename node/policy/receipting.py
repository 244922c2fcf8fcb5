"""A segment while it is served: what it puts out is hashed and counted, its end is receipted."""

from collections.abc import Callable

import structlog

from aigrid.node.discovery.grid import NowMs
from aigrid.node.policy.admission import Admitted
from aigrid.node.policy.charging import Charge, computed_again
from aigrid.protocol.errors import AigridError
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import Finish, InferChunk, TextChunk
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Infer
from aigrid.protocol.receipt import Ended, OutputHash, ReceiptBody
from aigrid.protocol.record import Record, sign
from aigrid.protocol.timestamp import format_ms

log = structlog.get_logger()
Keep = Callable[[Record, bytes, str], None]


class Segment:
    """What this node serves of one answer. `receipt` is there once it has ended.

    `keep(record, salt, peer)` stores the receipt; `peer` is the DID it was served to.
    """

    def __init__(
        self,
        identity: Identity,
        message: Infer,
        admitted: Admitted,
        *,
        peer: str,
        keep: Keep,
        now_ms: NowMs,
    ) -> None:
        self._identity = identity
        self._message = message
        self._admitted = admitted
        self._peer = peer
        self._keep = keep
        self._now_ms = now_ms
        self._output = OutputHash(message.salt)
        self._tokens = 0
        self._cost = Charge(message.request)
        self._finish: Finish | None = None
        self.receipt: Record | None = None

    def add(self, batch: tuple[InferChunk, ...]) -> None:
        """Take note of chunks that are about to go out; the last one ends the segment."""
        self._output.add(batch)
        if batch:
            self._cost.chunks(batch)
        for chunk in batch:
            if isinstance(chunk, TextChunk):
                self._tokens += len(chunk.token_ids)
            elif isinstance(chunk, Finish):
                self._finish = chunk
                self.end(chunk.reason)

    def end(self, reason: Ended) -> None:
        """Charge what was used, sign and keep the receipt; only the first time.

        Hanging up early is not free of charge: nobody has counted the prompt then, so what it costs
        is estimated. Nor is going on with an answer: what was said before is computed again. The
        receipt says what was counted.
        """
        if self.receipt is not None:
            return
        finish, admitted, message = self._finish, self._admitted, self._message
        prompt_tokens = 0 if finish is None else finish.prompt_tokens
        completion_tokens = self._tokens if finish is None else finish.completion_tokens
        uncounted = 0 if finish is None else computed_again(message.request)
        if reason == "cancelled":
            uncounted += self._cost.broke_off()  # nothing, where there is a count
        binding, now_ms = admitted.presentation.binding, self._now_ms()
        body = ReceiptBody(
            id=admitted.presentation.holder,
            request_id=message.request_id,
            model=message.model,
            manifest=admitted.manifest,
            request_hash=binding.request_hash,
            prefix_hash=binding.prefix_hash,
            output_hash=self._output.hexdigest(),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            began=format_ms(admitted.began_ms),
            ended=format_ms(max(now_ms, admitted.began_ms)),
            reason=reason,
            presentation=admitted.presentation.digest,
            credentials=admitted.decision.relied_on,
        )
        valid_until_ms = now_ms + LIMITS.receipt_ttl_seconds * 1000
        self.receipt = sign(
            Kind.RECEIPT,
            body,
            self._identity,
            valid_from_ms=now_ms,
            valid_until_ms=valid_until_ms,
        )
        try:
            admitted.charge.spend(prompt_tokens + completion_tokens + uncounted)
            self._keep(self.receipt, message.salt, self._peer)
        except AigridError as error:  # a full disk: the answer goes on
            log.warning("segment_not_kept", code=error.code.value, reason=error.message)
