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
    workers_per_model_max: int = limit(8, "workers of one model on one node")
    model_grow_seconds: float = limit(0.5, "a request waits for a slot before a worker is added")
    model_grow_pause_seconds: float = limit(10.0, "after adding one failed, before the next try")
    model_extra_idle_seconds: float = limit(20.0, "an unused worker beside a model's first stays")
    model_room_seconds: float = limit(5.0, "a load waits for memory that other models use")
    model_stay_seconds: float = limit(2.0, "a loaded model stays, whoever waits for its memory")
    pins_max: int = limit(64, "models that stay loaded")
    pin_retry_seconds: float = limit(2.0, "first pause after a pinned model could not be loaded")
    pin_retry_max_seconds: float = limit(120.0, "longest such pause")
    # The pool: workers that crash
    crash_window_seconds: float = limit(600.0, "a crash of a model's worker is remembered")
    crashes_max: int = limit(5, "of those that count, until the model is quarantined")
    crash_pause_seconds: float = limit(1.0, "before loading after the second; doubled by each more")
    crash_pause_max_seconds: float = limit(60.0, "longest such pause")
    quarantine_seconds: float = limit(600.0, "a quarantine")
    quarantine_one_seconds: float = limit(60.0, "one that a single asker's crashes led to")
    suspect_seconds: float = limit(15.0, "after a request, its asker may have caused a crash")
    suspects_max: int = limit(64, "askers remembered of one model's crashes")
    crash_alone_seconds: float = limit(60.0, "one asker at a time, after a crash among several")
    asker_pause_seconds: float = limit(2.0, "an asker waits who crashed it twice; then twice that")
    asker_pause_max_seconds: float = limit(120.0, "longest such pause")
    # The pool: spare workers
    spares_max: int = limit(4, "spare workers of one engine")
    spare_idle_seconds: float = limit(600.0, "they stay without use of their engine")
    spare_pause_seconds: float = limit(1.0, "after the last load, before one is made")
    # Routing
    attempts_max: int = limit(3, "candidates tried before the first chunk")
    refusals_max: int = limit(8, "beside these, candidates that refuse by their policy")
    answer_silence_seconds: float = limit(600.0, "nothing but signs of life within an answer")
    offer_seconds: float = limit(2.0, "the offer under a new manifest to arrive")
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
