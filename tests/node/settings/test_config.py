from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigrid.node.settings.config import NodeConfig, default_data_dir, load
from aigrid.node.settings.pool import PoolSettings
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.canonical import content_id
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN

DID = Identity(bytes(32)).did
PEER = Identity(bytes(32)).peer_id
BOOTSTRAP = f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}"


def merged(
    tmp_path: Path,
    toml: str = "",
    environment: dict[str, str] | None = None,
    **flags: Any,
) -> NodeConfig:
    if toml:
        (tmp_path / "config.toml").write_text(toml)
    return load(tmp_path, flags, environment=environment or {}, hostname="box.example.org")


def test_defaults(tmp_path: Path) -> None:
    config = merged(tmp_path)
    assert config == NodeConfig(data_dir=tmp_path, name="box")
    assert (config.gateway, config.gateway_explicit) == (("127.0.0.1", 8080), False)


def test_later_sources_win_key_by_key(tmp_path: Path) -> None:
    config = merged(
        tmp_path,
        'name = "file"\nregion = "eu"\nthreads = 1\nmdns = false\nlisten = ["/ip4/0.0.0.0/tcp/1"]',
        {"AIGRID_THREADS": "2", "AIGRID_GATEWAY": "localhost:9000", "AIGRID_LISTEN": ""},
        threads=3,
        name=None,
        gateway="[::1]:0",
    )
    assert (config.name, config.threads, config.mdns) == ("file", 3, False)
    assert config.region == "eu"
    assert config.listen == ("/ip4/0.0.0.0/tcp/1",)
    assert (config.gateway, config.gateway_explicit) == (("::1", 0), True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('[trust]\naudit = "0.5"', "trust 'audit' must be a number from 0 to 1, and is a string"),
        ("[trust]\nmembers = true", "trust 'members' must be a number from 0 to 1, and is a bool"),
        ('trust = "audit=0.5"', "trust must be a table such as .* and is a string"),
        ("[names]\nllama = 1", "names 'llama' must be a model id, and is an integer"),
        ('[names]\nllama = "tiny"', "names 'llama' must be a model id such as bagaaiera"),
        ('[names]\n"" = "tiny"', "names '' is no name of a model"),
        ('names = "llama=tiny"', "names must be a table such as .* and is a string"),
        ('share = "vitals=no"', "share must be a table such as .* and is a string"),
        ('pool = "spares = 0"', "pool must be a table such as .* and is a string"),
        ('placement = "loads_per_day=5"', "placement must be a table such as .* and is a string"),
        ('weights = "seed=no"', "weights must be a table such as .* and is a string"),
        ('[share]\nvitals = "no"', "share vitals must be true or false, and is a string"),
        ('[weights]\nseed = "no"', "weights seed must be true or false, and is a string"),
        ('[weights]\nuploads = "3"', "weights uploads must be a number .* and is a string"),
        ('[placement]\nloads_per_day = "3"', "placement loads_per_day must be .* and is a string"),
        ('mdns = "yes"', "mdns must be true or false, and is a string"),
        ("mdns = 1", "mdns must be true or false, and is an integer"),
        ('threads = "2"', "threads must be a number .* and is a string"),
        ("threads = 2.0", "threads must be a number .* and is a float"),
        ('holder_concurrency = "2"', "holder_concurrency must be a number .* and is a string"),
        ('patience_seconds = "2"', "patience_seconds must be seconds.* and is a string"),
    ],
)
def test_in_the_file_no_text_stands_for_a_number(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"config.toml: {said}"):
        merged(tmp_path, line)


def test_what_is_spelled_out_elsewhere_is_text_to_whoever_reads_it(tmp_path: Path) -> None:
    said = {"AIGRID_REGION": "eu", "AIGRID_NAME": "n", "AIGRID_PLACEMENT": "host=members"}
    config = merged(tmp_path, environment={**said, "AIGRID_TRUST": "audit=0.5"})
    assert [type(one) for one in (config.region, config.name, config.placement.host)] == [str] * 3
    assert config.trust.audit == 0.5


def test_an_operator_pins_names_of_models(tmp_path: Path) -> None:
    model = content_id(b"a model")
    assert merged(tmp_path, f'[names]\n"my llama" = "{model}"').names == {"my llama": model}
    said = {"AIGRID_NAMES": f"llama={model}"}
    assert merged(tmp_path, environment=said).names == {"llama": model}
    many = "\n".join(f'n{n} = "{model}"' for n in range(LIMITS.names_pinned_max + 1))
    with pytest.raises(UsageError, match="more than 256 names"):
        merged(tmp_path, f"[names]\n{many}")


def test_patience_is_a_time_within_bounds(tmp_path: Path) -> None:
    assert merged(tmp_path).patience_seconds == LIMITS.patience_seconds
    assert merged(tmp_path, "patience_seconds = 5").patience_seconds == 5
    said = merged(tmp_path, environment={"AIGRID_PATIENCE_SECONDS": "2.5"})
    assert said.patience_seconds == 2.5
    for wrong in ("-1", "601", "true", '"soon"', "nan", "[]"):
        with pytest.raises(UsageError, match="patience_seconds must be seconds, from 0 to 600"):
            merged(tmp_path, f"patience_seconds = {wrong}")


def test_publishers_are_trusted_by_their_did_alone(tmp_path: Path) -> None:
    did = Identity(bytes(32)).did
    other = Identity(bytes(31) + b"x").did
    assert merged(tmp_path, "").trusted_publishers == frozenset()
    env = {"AIGRID_TRUSTED_PUBLISHERS": "did:web:example.com"}
    with pytest.raises(UsageError, match=r"environment: AIGRID_TRUSTED_PUBLISHERS lists"):
        merged(tmp_path, "", env)
    listed = merged(tmp_path, f'trusted_publishers = ["{did}", " {other}"]')
    assert listed.trusted_publishers == {did, other}
    named = merged(tmp_path, trusted_publishers=[did])
    assert named.trusted_publishers == {did}
    with pytest.raises(
        UsageError, match=r"command line: --trust-publisher lists 'me', which is no"
    ):
        merged(tmp_path, trusted_publishers=["me"])


def test_the_operators_policy(tmp_path: Path) -> None:
    usual = merged(tmp_path).operator
    assert usual.serves == {"members"}
    assert usual.hosts == {"*"}
    assert merged(tmp_path, open=True).operator.serves == {"anyone"}
    assert merged(tmp_path, open=True, serve=["members"]).operator.serves == {"members"}
    assert merged(tmp_path, serve=["nobody"], host=["nothing"]).operator == replace(
        usual, serves=frozenset(), hosts=frozenset()
    )
    model = content_id(b"{}")
    config = merged(
        tmp_path,
        f'serve = ["members", "{DID}"]\nhost = ["text", "{model}"]\n'
        "holder_requests_per_day = 5\nholder_tokens_per_day = 6\nholder_concurrency = 7\n"
        'accept_licenses = ["MIT", "Apache-2.0"]\n',
    )
    found = config.operator
    assert found.serves == {"members", DID}
    assert found.hosts == {"text", MODEL_URN + model}
    assert (found.requests_per_day, found.tokens_per_day, found.concurrency) == (5, 6, 7)
    assert config.accept_licenses == ("Apache-2.0", "MIT")
    told = merged(
        tmp_path, environment={"AIGRID_SERVE": f"anyone, {DID}", "AIGRID_HOLDER_CONCURRENCY": "2"}
    ).operator
    assert told.serves == {"anyone", DID}
    assert told.concurrency == 2


def test_engines_are_named_in_order(tmp_path: Path) -> None:
    assert merged(tmp_path, 'engine = ["torch", "onnx"]').engines == ("torch", "onnx")
    named = merged(tmp_path, environment={"AIGRID_ENGINE": "torch, onnx, torch"})
    assert named.engines == ("torch", "onnx")
    for wrong in ("../torch", "Torch", ",".join(f"e{n}" for n in range(99))):
        with pytest.raises(UsageError, match="_ENGINE must"):
            merged(tmp_path, environment={"AIGRID_ENGINE": wrong})


@pytest.mark.parametrize(
    "value",
    [
        "cpu=8GiB, cuda:0=1.5GB,rocm:12=7",
        {"cpu": "8 GiB", "cuda:0": 1_500_000_000, "rocm:12": "7B"},
        {"cpu": 8 * 2**30, "cuda:0": "1500000KB", "rocm:12": 7},
    ],
)
def test_memory_is_told_by_device(tmp_path: Path, value: Any) -> None:
    expected = {"cpu": 8 * 2**30, "cuda:0": 1_500_000_000, "rocm:12": 7}
    assert merged(tmp_path, memory=value).memory == expected
    assert merged(tmp_path).memory == {}


def test_memory_stands_as_a_table_in_the_file(tmp_path: Path) -> None:
    config = merged(tmp_path, '[memory]\ncpu = "2MiB"\n"cuda:0" = 0')
    assert config.memory == {"cpu": 2 * 2**20, "cuda:0": 0}
    again = merged(tmp_path, environment={"AIGRID_MEMORY": "cpu=1KiB"})
    assert again.memory == {"cpu": 1024}


def test_environment_spells_lists_and_truth(tmp_path: Path) -> None:
    config = merged(
        tmp_path,
        environment={
            "AIGRID_BOOTSTRAP": f"{BOOTSTRAP}, {BOOTSTRAP}",
            "AIGRID_OPEN": "yes",
            "AIGRID_MDNS": "0",
            "AIGRID_SOMETHING_ELSE": "is not ours to judge",
        },
    )
    assert config.bootstrap == (BOOTSTRAP,)
    assert config.open_to_strangers
    assert not config.mdns


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("listen", ["/ip4/0.0.0.0/udp/1"]),
        ("listen", ["/ip4/300.0.0.0/tcp/1"]),
        ("listen", ["/ip4/0.0.0.0/tcp/70000"]),
        ("listen", ["/dns4/example.org/tcp/1"]),
        ("listen", ["4001"]),
        ("listen", 4001),
        ("bootstrap", ["/ip4/192.0.2.1/tcp/4001"]),
        ("bootstrap", ["/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW"]),
        ("bootstrap", [f"/ip4/192.0.2.1/tcp/0/p2p/{PEER}"]),
        ("bootstrap", [BOOTSTRAP] * 65),
        ("gateway", "8080"),
        ("gateway", "127.0.0.1:port"),
        ("gateway", "127.0.0.1:65536"),
        ("gateway", "127.0.0.1:" + "9" * 5000),
        ("gateway", "127.0.0.1:\N{FULLWIDTH DIGIT EIGHT}"),
        ("listen", ["/ip4/0.0.0.0/tcp/" + "9" * 5000]),
        ("bootstrap", [f"/ip4/192.0.2.1/tcp/00/p2p/{PEER}"]),
        ("threads", "9" * 5000),
        ("memory", {"cpu": 16**5000}),
        ("gateway_name", ["fe80::1%eth0"]),
        ("gateway_name", ["a b"]),
        ("tls_cert", "~nobody-of-that-name/cert.pem"),
        ("mdns", "maybe"),
        ("open", 1),
        ("name", ""),
        ("name", "a\x1b[31m"),
        ("name", "a" * 97),
        ("threads", -1),
        ("threads", True),
        ("threads", "many"),
        ("memory", "8GiB"),
        ("memory", [["cpu", "8GiB"]]),
        ("memory", [["cpu", "8GiB", "more"]]),
        ("memory", "cpu=8GiBB"),
        ("memory", "cpu=-1"),
        ("memory", "cpu=9000000TiB"),
        ("memory", "cpu=1,cpu=2"),
        ("memory", "cuda=1"),
        ("memory", "CPU=1"),
        ("memory", "cpu=1,"),
        ("memory", {}),
        ("memory", {"cpu": True}),
        ("memory", {"cpu": 1.5}),
        ("memory", {"cpu": None}),
        ("memory", 7),
        ("memory", {f"cuda:{n}": 1 for n in range(65)}),
        ("interest", ["poetry"]),
        ("interest", ["none", "text"]),
        ("interest", [" "]),
        ("interest", 7),
        ("thread", 1),
        ("serve", []),
        ("serve", ["me"]),
        ("serve", ["nobody", "members"]),
        ("serve", 1),
        ("serve", [f"did:key:z{n}" for n in range(40)]),
        ("host", ["did:key:z6Mk"]),
        ("host", ["Text Generation"]),
        ("host", ["nope"]),
        ("region", "EU WEST"),
        ("region", ""),
        ("region", "r" * 97),
        ("accept_licenses", ["not a licence!"]),
        ("host", [f"c{n}" for n in range(40)]),
        ("holder_requests_per_day", -1),
        ("holder_tokens_per_day", True),
        ("holder_concurrency", "many"),
        ("accept_licenses", ["é"]),
        ("accept_licenses", ["x" * 97]),
        ("accept_licenses", [f"L{n}" for n in range(17)]),
        ("accept_licenses", 3),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        merged(tmp_path, **{key: value})
    assert caught.value.code is Code.USAGE
    spelled = {"accept_licenses": "accept-license"}.get(key, key)
    spelled = spelled.replace("_", "-") if key in ("gateway_name", "tls_cert") else spelled
    assert f"--{spelled}" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.168.1.2", "", "[::]", "example.org", "127.0.0.1.nip.io"]
)
def test_another_interface_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError) as caught:
        merged(tmp_path, gateway=f"{host}:8080")
    assert caught.value.code is Code.UNSAFE_BINDING
    assert caught.value.info.exit == 2


@pytest.mark.parametrize(
    "toml",
    [
        "name = ",
        "\udcff",
        'unknown = "x"',
        f"{'x' * 9000} = 1",
        "x = " + "1" * 70000,
        "x = " + "[" * 9999,
        f"[{'x' * 9000}]\n" * 2,
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, toml: str) -> None:
    (tmp_path / "config.toml").write_bytes(toml.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"config\.toml") as caught:
        merged(tmp_path)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(("key", "alone"), [("serve", "nobody"), ("host", "nothing")])
def test_a_word_for_none_stands_alone(tmp_path: Path, key: str, alone: str) -> None:
    none: dict[str, Any] = {key: [alone]}
    assert getattr(merged(tmp_path, **none), key) == frozenset()
    none[key].append("members")
    with pytest.raises(UsageError, match=f"--{key} names {alone} beside others"):
        merged(tmp_path, **none)


def test_names_of_the_gateway_are_spelled_as_clients_do(tmp_path: Path) -> None:
    names = ["2001:0DB8::0001", "Node.Example.org", "2001:db8::1"]
    assert merged(tmp_path, gateway_name=names).gateway_names == ("2001:db8::1", "node.example.org")


def test_a_key_given_twice_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('region = "eu"\nregion = "us"\n')
    with pytest.raises(UsageError, match=r"Cannot overwrite a value \(at line 2, column 14\)"):
        merged(tmp_path)
    (tmp_path / "config.toml").write_text(f"[{'x' * 9000}]\n" * 2)
    with pytest.raises(UsageError, match=r"Cannot declare \('x+.*\(at line 2, column 9002\)$"):
        merged(tmp_path)


def test_without_a_home_the_data_directory_has_to_be_said() -> None:
    assert default_data_dir({"AIGRID_DATA_DIR": "/x"}, None) == Path("/x")
    assert default_data_dir({"XDG_DATA_HOME": "/x"}, None) == Path("/x/aigrid")
    for environment in ({}, {"AIGRID_DATA_DIR": "~nobody-of-that-name/x"}):
        with pytest.raises(UsageError):
            default_data_dir(environment, None)


def test_a_wrong_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the environment: AIGRID_THREADS"):
        merged(tmp_path, environment={"AIGRID_THREADS": "x"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text-to-speech", {"audio"}),
        (["translation", "text", "vision"], {"text", "vision"}),
        ("translation, graph-ml", {"text", "utility"}),
        ("none", set()),
    ],
)
def test_a_capability_stands_for_its_branch(tmp_path: Path, value: Any, expected: Any) -> None:
    assert merged(tmp_path, interest=value).interests == expected
    assert merged(tmp_path).interests is None


def test_a_bootstrap_address_may_be_a_name(tmp_path: Path) -> None:
    address = f"/dns4/example.org/tcp/4001/p2p/{PEER}"
    assert merged(tmp_path, bootstrap=[address]).bootstrap == (address,)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/home/u/.local/share/aigrid"),
        ({"XDG_DATA_HOME": "/data"}, "/data/aigrid"),
        ({"XDG_DATA_HOME": "relative/is/ignored"}, "/home/u/.local/share/aigrid"),
        ({"XDG_DATA_HOME": "/data", "AIGRID_DATA_DIR": "/here"}, "/here"),
    ],
)
def test_default_data_directory(environment: dict[str, str], expected: str) -> None:
    assert default_data_dir(environment, Path("/home/u")) == Path(expected)


@pytest.mark.parametrize(("hostname", "name"), [("a b\x1b.c", "ab"), ("", "node"), ("ü-1", "ü-1")])
def test_hostname_is_made_fit_to_show(tmp_path: Path, hostname: str, name: str) -> None:
    assert load(tmp_path, {}, environment={}, hostname=hostname).name == name


def test_another_interface_is_served_with_tls(tmp_path: Path) -> None:
    config = merged(
        tmp_path, 'tls = "self-signed"\ngateway_name = ["node.example.org"]', gateway="0.0.0.0:1"
    )
    assert (config.gateway, config.tls) == (("0.0.0.0", 1), "self-signed")
    assert config.gateway_names == ("node.example.org",)
    own = merged(tmp_path, tls="", tls_cert=tmp_path / "c", tls_key="k", gateway="[::]:1")
    assert (own.tls_cert, own.tls_key) == (tmp_path / "c", Path("k").absolute())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tls": "on"}, "--tls "),
        ({"tls_cert": "c"}, "tls_key"),
        ({"tls_key": "k"}, "tls_cert"),
        ({"tls_cert": "c", "tls_key": "k", "tls": "self-signed"}, "one certificate"),
        ({"tls_cert": ""}, "--tls-cert"),
        ({"gateway_name": ["a b"]}, "--gateway-name"),
        ({"keyless": "maybe"}, "--keyless"),
    ],
)
def test_settings_of_tls_go_together(tmp_path: Path, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        merged(tmp_path, **wrong)


def test_the_pool_is_a_table_and_in_the_environment_what_stands_in_it(tmp_path: Path) -> None:
    assert merged(tmp_path).pool == PoolSettings()
    found = merged(
        tmp_path,
        '[pool]\npin = ["smollm2"]\nkeep_alive_seconds = -1\nkeep_alive = { parrot = 10 }\n'
        "workers_per_model = 2\nspares = 0\nspare_idle_seconds = 5",
    ).pool
    assert (found.pin, found.keep_alive_seconds) == (("smollm2",), float("inf"))
    assert (found.keep_alive, found.workers_per_model, found.spares) == ({"parrot": 10.0}, 2, 0)
    assert found.spare_idle_seconds == 5.0
    found = merged(tmp_path, environment={"AIGRID_POOL": 'pin = ["a", "b"], spares = 2'}).pool
    assert (found.pin, found.spares, found.workers_per_model) == (("a", "b"), 2, 0)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pool = 7", "must be a table"),
        ("[pool]\nsize = 1", "has no 'size'"),
        ("[pool]\npin = [7]", "pin must be"),
        (f"[pool]\npin = {[str(n) for n in range(65)]}", "pin must be at most 64"),
        ("[pool]\nkeep_alive_seconds = nan", "keep_alive_seconds must be seconds"),
        ("[pool]\nkeep_alive_seconds = -5", "keep_alive_seconds must be seconds"),
        ("[pool]\nkeep_alive_max_seconds = 1e12", "keep_alive_max_seconds must be seconds"),
        ("[pool]\nkeep_alive = { a = -2 }", "keep_alive must be seconds"),
        ("[pool]\nkeep_alive_seconds = true", "keep_alive_seconds must be seconds"),
        ("[pool]\nkeep_alive = 3", "keep_alive must be a table"),
        ('[pool]\nkeep_alive = { parrot = "x" }', "keep_alive must be seconds"),
        ("[pool]\nspare_idle_seconds = -1", "spare_idle_seconds must be seconds from 0 on"),
        ("[pool]\nworkers_per_model = 9", "workers_per_model must be a number from 0 to 8"),
        ("[pool]\nspares = 1.5", "spares must be a number from 0 to 4"),
    ],
)
def test_what_is_wrong_with_the_pool_is_said(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=f"pool {wrong}"):
        merged(tmp_path, text)


@pytest.mark.parametrize("text", ["spares", "spares = }", "a = 1\nb = 2", "[[["])
def test_a_pool_in_the_environment_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="environment: AIGRID_POOL"):
        merged(tmp_path, environment={"AIGRID_POOL": text})


def test_weights_stand_as_a_table_or_in_one_line(tmp_path: Path) -> None:
    assert merged(tmp_path).weights == WeightsConfig()
    table = merged(tmp_path, '[weights]\nseed = false\ncache_bytes = "2MiB"\nuploads = 3').weights
    line = merged(tmp_path, weights="seed=no, cache_bytes=2MiB,uploads=3").weights
    assert table == line
    assert (table.seed, table.cache_bytes, table.uploads) == (False, 2 << 20, 3)


@pytest.mark.parametrize(
    "value",
    [
        *("", "seed", "seed=maybe", "cache_bytes=much", "uploads=0", "uploads=-1", "uploads=1025"),
        *("replicas_min=x", "cache=1", "fetch_bytes_per_day=-1"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError):
        merged(tmp_path, weights=value)
