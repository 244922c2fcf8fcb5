"""A server in OpenAI's dialect that costs next to nothing: what stands behind the gateways.

    python scripts/bench/mock_upstream.py        (prints its port)

It answers `max_tokens` tokens, one event and one write each where it streams. Tokens follow each
other as fast as the loop turns, or 10 ms apart where the prompt holds the word `slowly`. The
standard library alone, and bytes that are made once: a gateway is never held up by it.
"""

import asyncio
import json
import re
import sys

TOKENS_MAX = 4096
SLOW_SECONDS = 0.01
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_tokens": *([0-9]+)')
_STREAMS = re.compile(rb'"stream": *true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_ABOUT = {"id": "chatcmpl-mock", "created": 1_700_000_000, "model": "mock"}


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}


def plain(body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return f"{head}\r\n\r\n".encode() + data


def whole(tokens: int) -> bytes:
    message = {"role": "assistant", "content": " tok" * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    return plain(
        {**_ABOUT, "object": "chat.completion", "choices": [choice], "usage": usage(tokens)}
    )


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    said = {**_ABOUT, "object": "chat.completion.chunk", "choices": [choice]}
    return chunked(b"data: " + json.dumps(said).encode() + b"\n\n")


def tail(tokens: int) -> bytes:
    counted = {**_ABOUT, "object": "chat.completion.chunk", "choices": [], "usage": usage(tokens)}
    last = chunked(b"data: " + json.dumps(counted).encode() + b"\n\n")
    return event({}, "length") + last + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


_TOKEN = event({"content": " tok"})
_FIRST = _STREAM_HEAD + event({"role": "assistant", "content": ""})
_MODELS = plain({"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "us"}]})


class Connection(asyncio.Protocol):
    """One client; a request after the other."""

    def __init__(self) -> None:
        self._rest = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end]
            stated = _LENGTH.search(head)
            whole_bytes = end + 4 + (int(stated[1]) if stated else 0)
            if len(self._rest) < whole_bytes:
                return
            body, self._rest = self._rest[end + 4 : whole_bytes], self._rest[whole_bytes:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST"):
            self._transport.write(_MODELS)
            return
        wanted = _TOKENS.search(body)
        tokens = min(int(wanted[1]) if wanted else 16, TOKENS_MAX)
        if _STREAMS.search(body):
            pause = SLOW_SECONDS if b"slowly" in body else 0.0
            self._answering = asyncio.get_running_loop().create_task(self._stream(tokens, pause))
        else:
            self._transport.write(whole(tokens))

    async def _stream(self, tokens: int, pause_seconds: float) -> None:
        self._transport.write(_FIRST)
        for _ in range(tokens):
            await asyncio.sleep(pause_seconds)
            self._transport.write(_TOKEN)
        self._transport.write(tail(tokens))


async def main() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
