"""Bounds of the model mesh: the pool, weights on their way, placement, and routing."""

from dataclasses import dataclass

from aigrid.protocol.limit import KIB, MIB, MINUTE, limit


@dataclass(frozen=True)
class MeshLimits:
    """Part of `limits.Limits`."""

    # The pool
    model_idle_seconds: float = limit(300.0, "an unused model stays loaded")
    model_queue_max: int = limit(16, "requests waiting for a load or a slot of one model")
    memory_share: float = limit(0.8, "of the free memory, for models, where nothing is configured")
    # Routing
    attempts_max: int = limit(3, "candidates tried before the first chunk")
    refusals_max: int = limit(8, "beside these, candidates that refuse by their policy")
    answer_silence_seconds: float = limit(600.0, "nothing but signs of life within an answer")
    offer_seconds: float = limit(2.0, "the offer under a new manifest to arrive")
    patience_seconds: float = limit(60.0, "a request waits for somebody who serves it, at most")
    busy_believed_seconds: float = limit(60.0, "a busy node is not asked again, at most")
    models_observed_max: int = limit(64, "models of one peer whose speed is remembered")
    continuations_max: int = limit(8, "times that one answer is continued elsewhere")
    continued_crashes_max: int = limit(2, "of these, after an engine died or failed")
    continuation_silence_seconds: float = limit(
        5.0, "silence of a warm node that is to go on, before the next one is asked"
    )
    continuation_patience_seconds: float = limit(10.0, "a broken answer waits for a summoned node")
    continuation_return_seconds: float = limit(
        3.0, "the same for the node that was lost, where there is no other"
    )
    summons_max: int = limit(8, "times that somebody is summoned for one request")
    # Weights on their way
    chunk_min_bytes: int = limit(1 * MIB, "a chunk of a file, the last one excepted")
    chunk_max_bytes: int = limit(16 * MIB, "the same, of a large file")
    chunks_wanted: int = limit(16 * KIB, "chunks of a file beyond which they grow")
    chunks_max: int = limit(64 * KIB, "chunks of a file that is given away")
    chunks_asked_max: int = limit(64, "chunks asked for in one request")
    weights_piece_bytes: int = limit(256 * KIB, "a piece of a chunk in one frame")
    seeds_max: int = limit(256, "models whose files one node gives away, in its record")
    # Demand and placement
    demand_ttl_seconds: int = limit(5 * MINUTE, "validity of a Demand")
    demands_max: int = limit(16, "models in one Demand")
    demand_waiting_max: int = limit(1_000_000, "requests said to wait for one model")
    # What a client is told while it waits
    loading_text_max_chars: int = limit(160, "how far a load has come, in words")
    keep_alive_max_seconds: float = limit(3600.0, "how long others may have a model kept loaded")
