"""Valid bodies of requests, for each dialect: what mutations begin with."""

from typing import Any

_BY_CAPABILITY = (
    "capability:translation?source=en&target=fr&max_latency_ms=500&strategy=fastest",
    "capability:text-classification?license=MIT&warm=true&region=eu&max_size_bytes=100",
    "capability:text-generation?format=gguf&precision=Q8_0&language=en&strategy=local_first",
    "capability:did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp#legal?source=en",
)
_SAMPLED: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stop": ["a", "b"],
    "max_tokens": 16,
    "n": 2,
    "frequency_penalty": 0.5,
    "logit_bias": {"1": 2},
    "response_format": {"type": "json_object"},
    "user": "somebody",
}
_PROVIDER: dict[str, Any] = {
    "order": ["a"],
    "only": ["a", "b"],
    "ignore": ["c"],
    "allow_fallbacks": False,
    "quantizations": ["int8"],
    "sort": {"by": "latency", "partition": "model"},
    "data_collection": "allow",
}
# Valid as they are, and of use to every dialect that has such a member.
_COMMON: tuple[dict[str, Any], ...] = (
    {"model": "echo", "provider": _PROVIDER},
    {"model": "echo", "provider": {"sort": "throughput", "require_parameters": True}},
    {"model": "echo", "provider": {}, "keep_alive": -1},
    *({"model": name} for name in _BY_CAPABILITY),
)
CHAT: tuple[Any, ...] = (
    *({"messages": [{"role": "user", "content": "x"}], **one} for one in _COMMON),
    {
        "model": "m",
        "messages": [{"role": "developer", "content": "x", "name": "n"}],
        **_SAMPLED,
        "max_completion_tokens": 4,
        "reasoning_effort": "low",
    },
    {
        "model": _BY_CAPABILITY[0],
        "messages": [{"role": "user", "content": '{"text": "Hello"}'}],
        "max_tokens": 5,
        "provider": {"require_parameters": True},
    },
    {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function"}]},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 1,
        "max_tokens": 16,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "keep_alive": "5m",
        "provider": {"order": ["a"], "require_parameters": True, "sort": "latency"},
    },
    {"models": ["a", "b"], "messages": [{"role": "user", "content": "x"}]},
    {
        "model": "capability:translation?source=en&target=fr&max_latency_ms=500&strategy=fastest",
        "messages": [{"role": "user", "content": '{"text": "Hello"}'}],
    },
)
COMPLETION: tuple[Any, ...] = (
    *({"prompt": "x", **one} for one in _COMMON),
    {"model": "m", "prompt": "x", **_SAMPLED, "logprobs": 3, "echo": False, "stream": True},
    {"model": "echo", "prompt": "a", "max_tokens": 4, "logprobs": 1, "echo": False, "n": 1},
    {"model": "echo", "prompt": ["a", [1, 2]], "suffix": "", "best_of": 1, "stop": "x"},
    {"model": "capability:text-classification", "prompt": [1, 2, 3]},
)
RESPONSE: tuple[Any, ...] = (
    *({"input": "x", **one} for one in _COMMON),
    {
        "model": "m",
        "input": [
            {"role": "system", "content": "x"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {
                        "type": "input_file",
                        "filename": "a",
                        "file_data": "data:text/plain;base64,QQ==",
                    }
                ],
            },
        ],
        "temperature": 0.5,
        "top_p": 0.5,
        "top_logprobs": 2,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "truncation": "disabled",
        "store": False,
        "text": {"format": {"type": "text"}},
    },
    {"model": "echo", "input": "Hi", "instructions": "Be brief.", "max_output_tokens": 5},
    {
        "model": "echo",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:"}],
            },
            {"type": "reasoning", "summary": []},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "metadata": {"a": "b"},
        "stream": True,
    },
)
EMBEDDINGS: tuple[Any, ...] = (
    *({"input": "x", **one} for one in _COMMON),
    {"model": "m", "input": [1, 2, 3], "encoding_format": "float", "user": "x", "own": 1},
    {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
    {"model": "m", "input": [[1, 2], [3]]},
    {"models": ["m"], "input": "a", "provider": {"only": ["x"]}},
)
OLLAMA: tuple[Any, ...] = (
    *({"messages": [{"role": "user", "content": "x"}], "prompt": "x", **one} for one in _COMMON),
    {
        "model": "m",
        "prompt": "x",
        "options": {
            "num_predict": -1,
            "temperature": 1.5,
            "top_k": 40,
            "stop": "x",
            "seed": -1,
            "repeat_penalty": 1.1,
            "mirostat": 0,
        },
        "logprobs": True,
        "top_logprobs": 3,
        "images": ["iVBORw0KGgo="],
        "think": False,
        "stream": False,
    },
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "x", "thinking": "y"},
            {"role": "user", "content": "x", "images": []},
        ],
        "format": "",
        "think": True,
        "truncate": True,
    },
    {
        "model": "echo",
        "messages": [
            {"role": "user", "content": "Hi", "images": ["iVBORw0KGgo="]},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "content": "1", "tool_name": "f"},
        ],
        "options": {
            "num_predict": 5,
            "temperature": 0,
            "top_p": 1,
            "seed": 1,
            "stop": ["x"],
            "num_ctx": 2,
        },
        "format": {"type": "object"},
        "think": "low",
        "logprobs": True,
        "top_logprobs": 1,
        "keep_alive": "5m",
        "tools": [{"type": "function"}],
    },
    {"model": "echo", "prompt": "Hi", "system": "s", "raw": False, "suffix": "", "format": "json"},
    {"model": "echo", "prompt": "Hi", "raw": True, "context": [], "template": "", "stream": False},
    {"model": "echo", "input": ["a", "b"], "prompt": "a", "truncate": True, "dimensions": 3},
    {"name": "echo", "keep_alive": 0},
)
_DATA: tuple[tuple[str, list[Any]], ...] = (
    ("BOOL", [True, False]),
    *((kind, [1, 2]) for kind in ("INT8", "UINT8", "INT16", "UINT64", "INT64")),
    *((kind, [1.5, 2]) for kind in ("FP64", "FP32", "FP16", "BF16")),
    ("BYTES", ["x", "\u00e9"]),
)
EMBED: tuple[Any, ...] = (
    {"model": "m", "input": "x", "prompt": "x"},
    {"model": "m", "input": ["a", "b"], "truncate": True, "dimensions": 3, "keep_alive": "5m"},
    {"model": "m", "input": ["a"], "options": {"num_ctx": 2}, "keep_alive": 0, "own": 1},
    {"name": "m", "prompt": "x", "options": {}},
)
INFER: tuple[Any, ...] = (
    *(
        {"inputs": [{"name": "x", "shape": [2], "datatype": kind, "data": data}]}
        for kind, data in _DATA
    ),
    *(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1],
                    "datatype": kind,
                    "parameters": {"binary_data_size": size},
                }
            ],
            "parameters": {"timeout": 5, "keep_alive": "5m", "own": [1]},
            "outputs": [{"name": "y"}],
        }
        for kind, size in (("BYTES", 8), ("FP16", 2), ("BF16", 2), ("INT64", 8), ("BOOL", 1))
    ),
    {
        "id": "1",
        "inputs": [
            {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4.5]]},
            {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["text"]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 0}}],
        "parameters": {"sequence_id": 0, "own": 1.5, "binary_data_output": True},
    },
    {
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
        ]
    },
    {"inputs": [{"name": "b", "shape": [3], "datatype": "BOOL", "data": [True, False, True]}]},
)
REPOSITORY: tuple[Any, ...] = (
    {"ready": True},
    {"parameters": {}},
    {"ready": False, "parameters": {"unload_dependents": True}},
    {"parameters": {"config": '{"backend": "onnx"}', "file:1/model.onnx": "AAAA"}},
)
TASKS: tuple[Any, ...] = (
    *({"input": "text", "model": name} for name in _BY_CAPABILITY),
    {"input": [1, {"a": [None, True, 1.5]}], "model": "m", "keep_alive": "5m"},
    {
        "input": "text",
        "model": "m",
        "parameters": {"top_k": 2, "a": True, "b": 1.5},
        "keep_alive": 5,
    },
    {"input": {"a": [1, None]}, "parameters": {}},
)
CAPABILITIES: tuple[Any, ...] = (
    *(
        {"input": "text", "mode": mode, "parameters": {"top_k": 1}, "explain": True}
        for mode in (
            "vote",
            {"name": "fallback"},
            {"name": "vote", "of": 3, "agree": 2},
            {"name": "cascade", "confidence": 0.5, "of": 2},
            {"name": "race", "of": 2, "after_ms": 5},
        )
    ),
    {
        "input": "text",
        "parameters": {"source": "en", "target": "fr"},
        "constraints": {
            "latency_ms_max": 500,
            "deadline_ms": 900,
            "size_bytes_max": 10,
            "language": "en",
            "format": "gguf",
            "precision": "Q8_0",
            "issuer": "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
            "parameters": {"domain": "law"},
        },
        "strategy": {"quality": 1, "speed": 0.5},
    },
    {"input": "text", "parameters": {"domain": "law"}, "seed": 2},
    {"input": "data:image/png;base64,iVBORw0KGgo=", "parameters": {"top_k": 2}},
    {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "parameters": {"max_tokens": 5, "temperature": 0.5, "seed": 1, "stop": "x"},
        "constraints": {"latency_ms_max": 500, "warm": True, "license": "MIT", "region": "eu"},
        "strategy": {"quality": 1, "speed": 0.5},
        "mode": {"name": "race", "of": 2},
        "seed": 1,
        "explain": True,
        "keep_alive": "5m",
    },
    {"input": "text", "parameters": {"source": "en", "target": "fr"}, "strategy": "fastest"},
    {
        "input": "text",
        "mode": {
            "name": "pipeline",
            "steps": [
                {
                    "name": "b",
                    "capability": "translation",
                    "input": {"$from": "first", "path": "/0/label"},
                    "parameters": {"source": "en", "target": "fr"},
                    "constraints": {"warm": True},
                    "strategy": "fastest",
                    "mode": "race",
                },
                {"name": "c", "capability": "text-classification", "input": {"$from": "input"}},
                {"name": "d", "capability": "text-generation", "input": "x"},
            ],
            "output": "c",
        },
    },
)
