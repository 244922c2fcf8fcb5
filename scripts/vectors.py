"""Language-neutral test vectors: `python -m scripts.vectors --write | --check`.

Everything follows from fixed seeds; there is neither clock nor randomness. Bytes are lower-case hex
unless a member is text by nature.
"""

import argparse
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from scripts.vector_branches import branches
from scripts.vector_metrics import metrics
from scripts.vector_policy import chain_cases, decisions, hashes, presentations, status_lists
from scripts.vector_reconcile import reconcile
from scripts.vector_records import (
    AUTHORITY,
    DESCRIPTION,
    NEWCOMER,
    NODE,
    NOW_MS,
    an_invitation,
    records,
    refusals,
)
from scripts.vector_selection import selection

from aigrid.protocol import framing, inference, messages
from aigrid.protocol.canonical import canonical, content_id, file_cid
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.framing import FrameKind
from aigrid.protocol.identity import Identity
from aigrid.protocol.membership import commitment, invitation_text, short_code
from aigrid.protocol.model import ModelDescription, model_id
from aigrid.protocol.tensors import TensorSpec
from aigrid.protocol.upstream import Upstream

FOLDER = Path(__file__).parents[1] / "tests" / "vectors"


def identities() -> Any:
    return [
        {
            "seed": who.seed.hex(),
            "public_key": who.public_key.hex(),
            "did": who.did,
            "peer_id": who.peer_id,
        }
        for who in (Identity(bytes([n]) * 32) for n in (0, 1, 2, 3, 255))
    ]


def canonical_json() -> Any:
    values: list[Any] = [
        {},
        [],
        "",
        {"b": [True, None, 1.5], "a": '\u20ac\n"\\/\u0000\u001f\u007f\U0001f600'},
        {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7},
        [0, -1, 2**53 - 1, -(2**53) + 1, 1e21, 1e-7, 0.000001, 5e-324, 1.7976931348623157e308],
    ]
    return {
        "canonical": [
            {
                "json": json.dumps(value),
                "canonical": canonical(value).decode(),
                "content_id": content_id(canonical(value)),
            }
            for value in values
        ],
        "files": [
            {"bytes": data.hex(), "content_id": file_cid(hashlib.sha256(data).digest())}
            for data in (b"", b"aigrid")
        ],
    }


def models() -> Any:
    described = [
        ModelDescription(format="echo", task="text-generation", files=()),
        DESCRIPTION,
        ModelDescription(
            format="open_inference",
            task="tensor",
            files=(),
            upstream=Upstream(
                publisher=Identity(bytes([1]) * 32).did,
                model="iris",
                version="2",
                inputs=(TensorSpec("x", "FP32", (-1, 4)),),
                outputs=(TensorSpec("probabilities", "FP32", (-1, 3)),),
            ),
        ),
    ]
    vectors = []
    for description in described:
        value = json.loads(canonical(msgspec.to_builtins(description)))
        ordered = {**value, "files": sorted(value["files"], key=lambda file: file["name"])}
        vectors.append(
            {
                "description": value,
                "canonical": canonical(ordered).decode(),
                "model_id": model_id(description),
            }
        )
    return vectors


def joining() -> Any:
    joiner_nonce, host_nonce = bytes(range(16)), bytes(range(100, 116))
    pairs = [
        (joiner_nonce, host_nonce),
        (joiner_nonce + b"/" + bytes(15), host_nonce),
        (bytes(32), bytes(32)),
    ]
    return {
        "invitation": {
            "record": an_invitation().raw.decode(),
            "text": invitation_text(an_invitation()),
        },
        "short_codes": [
            {
                "grid": AUTHORITY.did,
                "joiner": NEWCOMER.peer_id,
                "host": NODE.peer_id,
                "joiner_nonce": joiners.hex(),
                "host_nonce": hosts.hex(),
                "commitment": commitment(joiners).hex(),
                "code": short_code(
                    grid=AUTHORITY.did,
                    joiner=NEWCOMER.peer_id,
                    host=NODE.peer_id,
                    joiner_nonce=joiners,
                    host_nonce=hosts,
                ),
            }
            for joiners, hosts in pairs
        ],
    }


def frames() -> Any:
    error = RemoteError("Try later.", Code.BUSY, retry_after_seconds=2.0)
    encoded = {
        "REQUEST": framing.encode(FrameKind.REQUEST, b"body"),
        "REQUEST_PART": framing.encode(FrameKind.REQUEST_PART, b"part"),
        "DATA": framing.encode(FrameKind.DATA, bytes(3)),
        "DATA, empty": framing.encode(FrameKind.DATA),
        "END": framing.encode(FrameKind.END),
        "ERROR": framing.encode(FrameKind.ERROR, framing.encode_error(error)),
        "CANCEL": framing.encode(FrameKind.CANCEL),
        "CREDIT of 524288 bytes": framing.encode(FrameKind.CREDIT, framing.encode_credit(524_288)),
    }
    broken = {
        "no kind": struct.pack(">I", 0) + b"\x04",
        "kind 0": struct.pack(">IB", 1, 0),
        "kind 8": struct.pack(">IB", 1, 8),
        "a body of 1 MiB and one byte": struct.pack(">IB", 2**20 + 2, 3),
    }
    return {
        "frames": [{"what": what, "bytes": data.hex()} for what, data in encoded.items()],
        "refused": [
            {"what": what, "bytes": data.hex(), "code": frame_verdict(data)}
            for what, data in broken.items()
        ],
    }


def frame_verdict(data: bytes) -> str:
    try:
        framing.FrameDecoder().feed(data)
    except RemoteError as error:
        return error.code.value
    raise AssertionError(data)


def wire_messages() -> Any:
    turn = inference.ChatMessage("user", "Hello")
    text = inference.TextRequest(
        messages=(turn,), max_tokens=16, temperature=0.0, seed=7, stop=("\n",), top_logprobs=1
    )
    tensor = inference.Tensor("float32", (2,), struct.pack("<2f", 1.0, 2.0))
    model, manifest = model_id(DESCRIPTION), content_id(b"a manifest")
    logprob = inference.TokenLogprob(42, " world", -0.5, ((42, " world", -0.5),))
    raw = b'{"a":"record"}'

    def infer(request: inference.InferRequest) -> messages.Infer:
        return messages.Infer("req_00000001", model, manifest, request, bytes(range(16)), raw)

    examples: dict[str, list[Any]] = {
        "rpc_request": [
            messages.Ping(),
            messages.Reconcile(b"\x61\x00\x00\x02\x00"),
            messages.Reconcile(b"\x61\x00\x00\x02\x00", branch="text"),
            messages.Fetch((bytes(range(32)),)),
            messages.Push((raw,)),
            messages.Find("capability", "text-generation", 64),
            messages.Find("capability", f"{NODE.did}#legal-writing", 1),
            messages.Find("model", model, 64),
            infer(text),
            infer(inference.TextRequest(token_ids=(1, 2), continued_ids=(3,))),
            infer(inference.TensorRequest({"x": tensor}, ("y",))),
            messages.Give((raw, raw)),
        ],
        "rpc_answer": [
            messages.Pong(NOW_MS, 2),
            messages.Reconciled(b"\x61"),
            messages.Records((raw,)),
            messages.Pushed(1),
            messages.Chunks(
                (
                    inference.TextChunk(" world", (42,), (logprob,)),
                    inference.Finish("stop", 9, 1),
                )
            ),
            messages.Chunks((inference.TensorChunk({"y": tensor}), inference.Finish("stop"))),
            messages.Receipted(raw),
            messages.Given(kept=True),
        ],
        "join_request": [
            messages.Redeem(raw),
            messages.Present(raw),
            messages.Rotate(raw),
            messages.AskToJoin("laptop", commitment(bytes(16))),
            messages.Reveal("r1", bytes(16)),
        ],
        "join_answer": [
            messages.Welcome(raw, raw),
            messages.Challenge("r1", AUTHORITY.did, bytes(16)),
            messages.Pending(),
            messages.Refused("join_refused", "The operator said no."),
        ],
    }
    return [
        {
            "conversation": name,
            "message": type(message).__name__,
            "bytes": messages.encode(message).hex(),
        }
        for name, said in examples.items()
        for message in said
    ]


VECTORS: dict[str, Callable[[], Any]] = {
    "identities": identities,
    "canonical": canonical_json,
    "records": records,
    "refusals": refusals,
    "models": models,
    "joining": joining,
    "frames": frames,
    "messages": wire_messages,
    "branches": branches,
    "metrics": metrics,
    "reconcile": reconcile,
    "status_lists": status_lists,
    "chains": chain_cases,
    "presentations": presentations,
    "decisions": decisions,
    "hashes": hashes,
    "selection": selection,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write tests/vectors/*.json")
    action.add_argument("--check", action="store_true", help="exit 1 when a file differs")
    write = parser.parse_args().write
    stale = []
    for name, generate in VECTORS.items():
        path = FOLDER / f"{name}.json"
        text = json.dumps(generate(), indent=1, ensure_ascii=True) + "\n"
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"differ from what this version computes: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
