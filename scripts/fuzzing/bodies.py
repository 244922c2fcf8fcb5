"""Valid bodies of requests, for each dialect: what mutations begin with."""

from typing import Any

CHAT: tuple[Any, ...] = (
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
        "provider": {"order": ["a"], "require_parameters": True, "sort": "price"},
    },
    {"models": ["a", "b"], "messages": [{"role": "user", "content": "x"}]},
    {
        "model": "capability:translation?source=en&target=fr&max_latency_ms=500&strategy=fast",
        "messages": [{"role": "user", "content": '{"text": "Hello"}'}],
    },
)
COMPLETION: tuple[Any, ...] = (
    {"model": "echo", "prompt": "a", "max_tokens": 4, "logprobs": 1, "echo": False, "n": 1},
    {"model": "echo", "prompt": ["a", [1, 2]], "suffix": "", "best_of": 1, "stop": "x"},
    {"model": "capability:text-classification", "prompt": [1, 2, 3]},
)
RESPONSE: tuple[Any, ...] = (
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
    {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
    {"model": "m", "input": [[1, 2], [3]]},
    {"models": ["m"], "input": "a", "provider": {"only": ["x"]}},
)
OLLAMA: tuple[Any, ...] = (
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
INFER: tuple[Any, ...] = (
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
TASKS: tuple[Any, ...] = (
    {
        "input": "text",
        "model": "m",
        "parameters": {"top_k": 2, "a": True, "b": 1.5},
        "keep_alive": 5,
    },
    {"input": {"a": [1, None]}, "parameters": {}},
)
CAPABILITIES: tuple[Any, ...] = (
    {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "parameters": {"max_tokens": 5, "temperature": 0.5, "seed": 1, "stop": "x"},
        "constraints": {"max_latency_ms": 500, "warm": True, "license": ["MIT"], "region": "eu"},
        "strategy": {"quality": 1, "speed": 0.5},
        "mode": {"mode": "race", "of": 2},
        "seed": 1,
        "explain": True,
        "keep_alive": "5m",
    },
    {"input": "text", "parameters": {"source": "en", "target": "fr"}, "strategy": "fast"},
    {
        "input": {"text": "x"},
        "mode": {
            "mode": "pipeline",
            "steps": [{"name": "b", "capability": "translation", "input": {"$from": "first"}}],
        },
    },
)
