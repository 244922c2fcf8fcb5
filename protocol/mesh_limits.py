"""Bounds of the model mesh: the pool, weights on their way, placement, and routing."""

from dataclasses import dataclass

from aigrid.protocol.limit import DAY, GIB, KIB, MIB, MINUTE, limit


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
    # Weights on their way
    chunk_min_bytes: int = limit(1 * MIB, "a chunk of a file, the last one excepted")
    chunk_max_bytes: int = limit(16 * MIB, "the same, of a large file")
    chunks_wanted: int = limit(16 * KIB, "chunks of a file beyond which they grow")
    chunks_max: int = limit(64 * KIB, "chunks of a file that is given away")
    chunks_asked_max: int = limit(64, "chunks asked for in one request")
    weights_piece_bytes: int = limit(256 * KIB, "a piece of a chunk in one frame")
    weights_piece_min_bytes: int = limit(4 * KIB, "the same at least, the last one excepted")
    seeds_max: int = limit(256, "models whose files one node gives away, in its record")
    fetch_holders_max: int = limit(8, "nodes from which one model is fetched at once")
    fetch_streams_per_holder: int = limit(2, "requests to each of these at once")
    fetch_run_bytes: int = limit(32 * MIB, "of chunks asked for in one request, one excepted")
    fetches_max: int = limit(2, "models fetched at once")
    fetch_silence_seconds: float = limit(10.0, "a holder to send the next piece")
    fetch_chunk_seconds: float = limit(300.0, "a holder to send a whole chunk")
    fetch_seek_seconds: float = limit(15.0, "for a holder, when none is left, before giving up")
    fetch_busy_max: int = limit(30, "times that a busy holder is asked again")
    fetch_list_seconds: float = limit(60.0, "a holder to send a chunk list")
    fetch_kept_seconds: float = limit(7.0 * DAY, "a fetch that was broken off can be resumed")
    fetch_bytes_per_day: int = limit(1024 * GIB, "weights fetched in a day of UTC")
    uploads_max: int = limit(16, "requests for weights answered at once")
    uploads_per_peer_max: int = limit(4, "of these, of one peer")
    upload_piece_seconds: float = limit(20.0, "a peer to take a piece")
    weights_cache_bytes: int = limit(100 * GIB, "fetched models on the disk")
    weights_replicas_min: int = limit(2, "nodes that keep a model though others want its room")
    # Demand and placement
    demand_ttl_seconds: int = limit(5 * MINUTE, "validity of a Demand")
    demands_max: int = limit(16, "models in one Demand")
    demand_waiting_max: int = limit(1_000_000, "requests said to wait for one model")
    # What a client is told while it waits
    loading_text_max_chars: int = limit(160, "how far a load has come, in words")
    keep_alive_max_seconds: float = limit(3600.0, "how long others may have a model kept loaded")
