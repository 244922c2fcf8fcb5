"""What keeps a node from starting is said in one sentence, with exit status 2."""

import os
import socket

import pytest
from scripts.nodes import NodeFailedError, NodeProcess

pytestmark = pytest.mark.process


def refused(node: NodeProcess) -> str:
    with pytest.raises(NodeFailedError) as caught:
        node.start()
    said = node.stdout_path.read_text() + node.stderr_path.read_text()
    assert caught.value.status == 2
    assert "Traceback" not in said
    return said


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_listen_port_in_use(tmp_path, taken):
    node = NodeProcess(
        tmp_path / "n",
        *("--listen", f"/ip4/127.0.0.1/tcp/{taken}", "--gateway", "127.0.0.1:0", "--no-mdns"),
        local=False,
    )
    assert "port_in_use" in refused(node)


def test_a_gateway_port_in_use(tmp_path, taken):
    node = NodeProcess(
        tmp_path / "n",
        *("--listen", "/ip4/127.0.0.1/tcp/0", "--gateway", f"127.0.0.1:{taken}", "--no-mdns"),
        local=False,
    )
    assert "port_in_use" in refused(node)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "[::]"])
def test_a_gateway_on_another_interface(tmp_path, host):
    node = NodeProcess(tmp_path / "n", "--gateway", f"{host}:0", "--no-mdns", local=False)
    assert "unsafe_binding" in refused(node)


def test_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    node = NodeProcess(tmp_path / "n", "--data-dir", str(tmp_path / "file"))
    assert "data_directory_unusable" in refused(node)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_directory_that_may_not_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    node = NodeProcess(tmp_path / "n", "--data-dir", str(tmp_path / "locked"))
    assert "data_directory_unusable" in refused(node)


def test_a_corrupt_key_file(tmp_path):
    node = NodeProcess(tmp_path / "n")
    node.cli("id")
    (tmp_path / "n" / "node.key").write_text("garbage")
    assert "key_file_corrupt" in refused(node)


def test_a_corrupt_database(tmp_path):
    node = NodeProcess(tmp_path / "n")
    node.cli("id")
    (tmp_path / "n" / "records.db").write_bytes(b"garbage" * 1000)
    assert "data_directory_unusable" in refused(node)


def test_a_second_node_on_the_same_directory(tmp_path):
    first, second = NodeProcess(tmp_path / "n"), NodeProcess(tmp_path / "n")
    first.start()
    try:
        with pytest.raises(NodeFailedError) as caught:
            second.start()
        assert caught.value.status == 2
        assert first.cli("status")["peer_id"] == first.peer_id
    finally:
        assert first.stop() == 0


def test_a_command_without_a_node(tmp_path):
    with pytest.raises(NodeFailedError) as caught:
        NodeProcess(tmp_path / "n").cli("status")
    assert (caught.value.status, caught.value.code) == (2, "not_running")


def test_a_model_file_that_is_missing(tmp_path):
    node = NodeProcess(tmp_path / "n")
    node.start()
    try:
        with pytest.raises(NodeFailedError) as caught:
            node.cli("publish", str(tmp_path / "none.gguf"), "--capability", "text-generation")
        assert (caught.value.status, caught.value.code) == (2, "model_file_missing")
    finally:
        assert node.stop() == 0
