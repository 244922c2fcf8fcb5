"""Which addresses are connected to."""

import ipaddress
import socket

import pytest

from aigrid.engines.base import Endpoint
from aigrid.engines.upstream.address import (
    Location,
    is_server,
    locate,
    may_connect,
    ports_of,
    resolve,
)
from aigrid.engines.upstream.http import Client, brief
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "http://127.0.0.1:8000/v1",
            Location(secure=False, host="127.0.0.1", port=8000, path="/v1"),
        ),
        ("https://gpu.example/", Location(secure=True, host="gpu.example", port=443, path="")),
        ("http://[::1]:9", Location(secure=False, host="::1", port=9, path="")),
    ],
)
def test_an_address_is_taken_apart(url, expected):
    assert locate(url) == expected


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("http://127.0.0.1:8000/v1", (8000,)),
        ("http://[::1]", (80,)),
        ("https://gpu.example", (443, 53)),
        ("http://localhost:11434/v1", (11434, 53)),
    ],
)
def test_a_server_takes_its_port_and_a_name_dns(url, ports):
    assert ports_of(url) == ports


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "gopher://host/",
        "http://",
        "http://host:0",
        "http://host:99999",
        "http://user:secret@host/v1",
        "http://host/v1?x=1",
        "http://host/v1#x",
        "http://host/a b",
        "http://host/v1\r\nX: y",
        "http://hö.example/",
        "http://host/%2e%2e",
        "http://[::1",
        "http://" + "h" * 4096,
    ],
)
def test_what_is_no_plain_address_is_refused(url):
    with pytest.raises(EngineError) as refused:
        locate(url)
    assert refused.value.code is Code.USAGE
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("found", "allowed"),
    [
        ("127.0.0.1", True),
        ("10.0.0.7", True),
        ("192.0.2.1", True),
        ("::1", True),
        ("fd12::1", True),
        ("169.254.169.254", False),
        ("169.254.1.1", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_a_name_leads_to_no_address_of_the_surroundings(found, allowed):
    assert may_connect(ipaddress.ip_address(found), None) is allowed


def test_what_is_written_down_as_it_is_is_meant():
    link_local = ipaddress.ip_address("169.254.7.7")
    assert may_connect(link_local, link_local)
    assert not may_connect(link_local, ipaddress.ip_address("169.254.7.8"))
    multicast = ipaddress.ip_address("224.0.0.1")
    assert not may_connect(multicast, multicast)


@pytest.mark.parametrize("spelled", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376"])
def test_other_spellings_of_an_address_are_names(spelled):
    with pytest.raises(EngineError):
        resolve(locate(f"http://{spelled}/"))


def test_a_name_is_resolved_once(server, monkeypatch):
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *rest, **more):
        if host == "gpu.example":
            asked.append(host)
            return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", port, *rest, **more)
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = server.server_address[1]
    client = Client(Endpoint(f"http://gpu.example:{port}/v1"))
    for _ in range(2):
        with client.open("GET", "/models", bounds=brief(LIMITS)) as answer:
            assert answer.status == 200
            answer.read()
    assert asked == ["gpu.example"]


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = Client(Endpoint(f"{server.root}/v1"))
    with client.open("GET", "/models", bounds=brief(LIMITS)) as answer:
        assert answer.status == 200
        answer.read()


@pytest.mark.parametrize("key", ["two\r\nlines", "a blank", "\u20ac"])
def test_a_key_that_is_none_is_refused_without_being_shown(key):
    with pytest.raises(EngineError) as refused:
        Client(Endpoint("http://127.0.0.1:1", key))
    assert refused.value.code is Code.USAGE
    assert key not in refused.value.message


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("openai+http://127.0.0.1:8000/v1", True),
        ("oip+https://gpu.example", True),
        ("openai+file:///etc/passwd", False),
        ("model+http.gguf", False),
        ("ftp+http://host", False),
    ],
)
def test_a_server_is_told_from_a_file(text, is_one):
    assert is_server(text) is is_one
