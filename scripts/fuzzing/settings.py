"""What an operator writes: configuration, in a file and in the environment, and policies."""

from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import Target, as_file, scratch
from scripts.fuzzing.trees import Tree

from aigrid.node.policy.policy_file import parse_policy
from aigrid.node.settings.config import _FIELDS, CONFIG_FILE, load
from aigrid.protocol.errors import UsageError
from aigrid.protocol.identity import Identity

_ME = Identity(bytes(32)).did
_CONFIG = f"""
listen = ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/0"]
gateway = "127.0.0.1:8080"
gateway_name = ["node.example.org"]
keyless = true
patience_seconds = 12.5
bootstrap = ["/dns4/example.org/tcp/4001/p2p/{Identity(bytes(32)).peer_id}"]
name = "a node"
region = "eu"
threads = 4
memory = "8GiB"
engine = ["onnx_text", "echo"]
trusted_publishers = ["{_ME}"]
interest = ["text-generation"]
serve = ["members"]
host = ["*"]
holder_requests_per_day = 100
accept_licenses = ["Apache-2.0"]
[pool]
pin = ["smollm2"]
keep_alive = {{ smollm2 = "5m" }}
spares = 0
[placement]
[weights]
[trust]
[names]
llama = "bagaaieraaaaa"
""".encode()
_POLICY = f"""
[[rules]]
actions = ["invoke", "fetch"]
assignees = ["me", "members", "{_ME}"]
purposes = ["research"]
regions = ["eu"]
accept_license = true
""".encode()
_POLICY_JSON = b'{"rules":[{"actions":["invoke"],"assignees":["anyone"],"accept_license":false}]}'
_NAMES = tuple(name.encode() for name in _FIELDS)
_TOKENS = (
    *(b"= ", b"[[", b"]]", b"[a]", b"'''", b'"""', b"1979-05-27T07:32:00Z", b"07:32:00", b"0x1f"),
    *(
        b"-inf",
        b"1e400",
        b"5m",
        b"forever",
        b"8GiB",
        b"50%",
        b"cpu=1GiB",
        b"0.0.0.0:0",
        b"[::1]:80",
    ),
    *(b"\\U0001F600", b"\\ud800", b"#", b","),
)


def _config(data: bytes) -> None:
    as_file(data, CONFIG_FILE)
    load(scratch(), {}, environment={}, hostname="host")


def _environment(data: bytes) -> None:
    """Lines of KEY = value, as variables."""
    said = {}
    for line in data.split(b"\n"):
        name, _, value = line.decode("utf-8", "surrogateescape").partition(" = ")
        said[f"AIGRID_{name.upper()}"] = value.strip('"').replace("\0", "")
    as_file(b"", CONFIG_FILE)
    load(scratch(), {}, environment=said, hostname="\udcff.example")


def _policy(data: bytes) -> None:
    parse_policy(data.decode("utf-8", "surrogateescape"), me=_ME)


TARGETS = (
    Target("configuration", lambda: Text([_CONFIG], (*_NAMES, *_TOKENS)), _config, (UsageError,)),
    Target(
        "environment",
        lambda: Text(_CONFIG.strip().splitlines(), (*_NAMES, *_TOKENS)),
        _environment,
        (UsageError,),
    ),
    Target("policies", lambda: Text([_POLICY], _TOKENS), _policy, (UsageError,)),
    Target("policies-in-json", lambda: Tree([_POLICY_JSON]), _policy, (UsageError,)),
)
