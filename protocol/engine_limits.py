"""Bounds of model files, of what comes with them, and of the workers that load them."""

from dataclasses import dataclass

from aigrid.protocol.limit import KIB, MIB, limit


@dataclass(frozen=True)
class EngineLimits:
    """Part of `limits.Limits`."""

    # Model files and what comes with them
    gguf_keys_max: int = limit(4096, "metadata keys of a GGUF file")
    gguf_tensors_max: int = limit(65536, "tensors of a GGUF file")
    gguf_key_max_bytes: int = limit(1024, "a key or a tensor's name")
    gguf_string_max_bytes: int = limit(1 * MIB, "a string in the metadata")
    gguf_text_max_bytes: int = limit(64 * MIB, "all strings of a GGUF file's header")
    gguf_array_items_max: int = limit(1024 * 1024, "items of one array in the metadata")
    gguf_items_max: int = limit(4 * 1024 * 1024, "items of all arrays together")
    gguf_rank_max: int = limit(4, "dimensions of a tensor in a GGUF file")
    gguf_alignment_max: int = limit(65536, "alignment of the tensors' data")
    safetensors_header_max_bytes: int = limit(8 * MIB, "the header of a safetensors file")
    safetensors_tensors_max: int = limit(65536, "tensors of a safetensors file")
    model_config_max_bytes: int = limit(1 * MIB, "the config.json beside a model's weights")
    model_config_depth_max: int = limit(32, "nesting of what is said beside a model's weights")
    model_read_seconds: float = limit(60.0, "reading what a model's files say of it")
    model_neighbours_max: int = limit(4096, "files in the folder of a model that are looked at")
    onnx_depth_max: int = limit(32, "nesting of an ONNX graph")
    onnx_parts_max: int = limit(512 * 1024, "nodes, tensors and attributes of one ONNX graph")
    onnx_operators_max: int = limit(4096, "different operators of an ONNX file")
    onnx_elements_max: int = limit(1 << 40, "elements of one ONNX tensor")
    protobuf_fields_max: int = limit(4_000_000, "fields of a protobuf file that are looked at")
    template_max_chars: int = limit(128 * KIB, "a chat template")
    template_overhead_max_chars: int = limit(
        256 * KIB, "what a chat template writes, beyond twice the messages"
    )
    template_operand_max: int = limit(64 * MIB, "items that an operator in a template may make")
    # Models behind somebody's server
    upstream_connect_seconds: float = limit(5.0, "connecting to the server, name and TLS included")
    upstream_silence_seconds: float = limit(45.0, "silence of the server within an answer")
    upstream_answer_seconds: float = limit(1800.0, "a whole answer of the server")
    upstream_read_seconds: float = limit(10.0, "a whole answer about its state")
    upstream_load_seconds: float = limit(90.0, "the trial request when the model is loaded")
    upstream_probe_seconds: float = limit(20.0, "the trial request that is repeated")
    upstream_interval_seconds: float = limit(
        15.0, "without a good answer before the trial request is repeated"
    )
    upstream_retry_seconds: float = limit(2.0, "first pause after one that failed")
    upstream_retry_max_seconds: float = limit(60.0, "longest pause after one that failed")
    upstream_watch_seconds: float = limit(2.0, "between two looks of the node at its worker")
    upstream_idle_seconds: float = limit(4.0, "an unused connection to the server is kept")
    upstream_slots: int = limit(32, "requests that one model's server gets at once")
    upstream_headers_max_bytes: int = limit(64 * KIB, "the header of an answer")
    upstream_state_max_bytes: int = limit(4 * MIB, "an answer about the server's state")
    upstream_event_max_bytes: int = limit(1 * MIB, "one event of a stream")
    upstream_models_max: int = limit(1024, "models of a server that are looked at")
    upstream_url_max_chars: int = limit(2048, "a server's address")
    upstream_key_max_bytes: int = limit(8192, "a server's API key")
    # Continuous batching
    batch_slots: int = limit(8, "conversations that a model of text answers at once, by default")
    batch_slots_max: int = limit(64, "the most that its option can ask for")
    batch_positions: int = limit(
        8192, "tokens whose keys and values all conversations of a model hold, unless one has more"
    )
    batch_gather_seconds: float = limit(
        0.01, "a step to wait for sequences that just got their last token"
    )
    # Workers
    pt2_entries_max: int = limit(65536, "entries of a .pt2 archive")
    pt2_directory_max_bytes: int = limit(16 * MIB, "a .pt2: its directory, its list of weights")
    worker_start_seconds: float = limit(20.0, "a worker process to say hello")
    engines_max: int = limit(32, "engines in a NodeRecord")
    plugin_wait_seconds: float = limit(5.0, "a node that starts, for plug-ins to say what they do")
    plugin_probes_max: int = limit(4, "engines that are asked at once, each in a child")
    worker_load_seconds: float = limit(120.0, "silence of a worker that loads a model")
    worker_build_seconds: float = limit(3600.0, "loading a model, its first build included")
    trial_seconds: float = limit(3900.0, "a new model to load and answer a trial request")
    continued_exact_tokens: int = limit(
        96, "tokens of a broken answer that whoever goes on computes one by one"
    )
    sign_of_life_seconds: float = limit(1.0, "between two signs that work without a result goes on")
    worker_silence_seconds: float = limit(60.0, "silence of a worker within a request")
    worker_stop_seconds: float = limit(1.0, "between asking a worker to stop and killing it")
    worker_heartbeat_seconds: float = limit(5.0, "between two pings of a worker that serves")
    worker_heartbeat_silence_seconds: float = limit(20.0, "a sign of life after such a ping")
    worker_idle_heartbeat_seconds: float = limit(60.0, "between two pings of an idle worker")
    worker_cancel_seconds: float = limit(
        10.0, "a cancelled request to end, else the worker is killed"
    )
    worker_hold_seconds: float = limit(
        0.05, "text that nobody reads before the end of its answer is held"
    )
    worker_chunks_max: int = limit(256, "chunks of one request that nobody has taken yet")
    worker_output_max_bytes: int = limit(16 * KIB, "kept of what a worker printed last")
    worker_failures_max: int = limit(16, "ends of workers that `status` remembers")
    worker_requests_told_max: int = limit(8, "requests that a worker ran which it names with them")
    worker_open_files_max: int = limit(256, "files a worker may have open")
    worker_headroom_bytes: int = limit(1024 * MIB, "memory a worker may take beside its model")
    worker_thread_bytes: int = limit(128 * MIB, "address space for a thread, per processor")
    worker_file_bytes: int = limit(1024 * MIB, "a file a worker writes, beside 8 times its model")
    worker_tasks_max: int = limit(64, "threads of a worker, beside 4 per processor")
    devices_max: int = limit(64, "devices of one machine, and in a NodeRecord")
    device_tool_seconds: float = limit(2.0, "asking a vendor's tool about devices")
