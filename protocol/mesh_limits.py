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
    asker_pause_seconds: float = limit(10.0, "an asker waits who crashed a worker; then twice it")
    asker_pause_max_seconds: float = limit(600.0, "longest such pause")
    # The pool: spare workers
    spares_max: int = limit(4, "spare workers of one engine")
    spare_idle_seconds: float = limit(600.0, "they stay without use of their engine")
    spare_pause_seconds: float = limit(1.0, "after the last load, before one is made")
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
    demand_interval_seconds: float = limit(1.0, "between two Demands of a node, at least")
    demand_refresh_seconds: float = limit(10.0, "until one says numbers that changed a little")
    demand_linger_seconds: float = limit(2.0, "a Demand stays after the last request has left")
    saturation_seconds: float = limit(1.0, "a request waits for busy nodes before it is a demand")
    summon_waiting_max: int = limit(512, "requests at one node that wait to be served")
    summon_poll_seconds: float = limit(0.25, "between looks at who may serve them now")
    summon_hope_seconds: float = limit(20.0, "they wait with no sign that anybody comes")
    summon_retry_seconds: float = limit(8.0, "they wait for busy nodes before they try again")
    summon_offers_max: int = limit(256, "offers looked at for each, of a capability")
    placement_models_max: int = limit(64, "wanted models that a node considers at once")
    placement_waiting_max: int = limit(64, "requests in the Demand of one member that count")
    placement_step_seconds: float = limit(3.0, "in which those that may act become twice as many")
    placement_settle_seconds: float = limit(5.0, "after replicas came or went, before the next")
    placement_coming_seconds: float = limit(300.0, "a replica that loads counts as one")
    placement_pause_seconds: float = limit(60.0, "after acting in vain; twice as long each time")
    placement_pause_max_seconds: float = limit(3600.0, "longest such pause")
    placement_acts_max: int = limit(2, "models that a node brings or loads unasked at once")
    placement_bytes_per_day: int = limit(100 * 1024 * MIB, "weights fetched unasked, by UTC day")
    placement_loads_per_day: int = limit(500, "models loaded unasked, by UTC day")
    placement_one_share: float = limit(0.5, "of these, for Demands of one member alone")
    replicas_max: int = limit(16, "replicas that are wanted of one model")
    replicas_per_asker: int = limit(4, "of these, for each member whose requests wait")
    replica_queue: int = limit(2, "requests waiting for each slot of one more replica")
    replica_idle_seconds: float = limit(60.0, "a replica beside others is unused before it retires")
    placement_seeds_min: int = limit(2, "nodes that are to have the files of a model")
    seeds_check_seconds: float = limit(30.0, "between looks at who has them")
    seeds_patience_seconds: float = limit(60.0, "too few have them before one more fetches them")
    # What a client is told while it waits
    loading_text_max_chars: int = limit(160, "how far a load has come, in words")
    keep_alive_max_seconds: float = limit(3600.0, "how long others may have a model kept loaded")
