"""Our muxer beside stock py-libp2p's and js-libp2p's: the same scripts, the same outcome."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import npm
from scripts.fuzz_yamux_differential import Judges, difference, fuzz, judges
from scripts.yamux import conversations, differences
from scripts.yamux.conversations import Act, Script, data, update
from scripts.yamux.walk import findings

from aigrid.node.network.yamux_frames import FIN, RST, SYN

DOCUMENT = Path(__file__).parents[3] / "docs" / "data-path.md"
SCRIPTS = 100


@pytest.fixture(scope="module")
def three() -> Iterator[Judges]:
    try:
        with judges() as running:
            yield running
    except npm.UnavailableError as error:
        pytest.skip(str(error))


def test_random_conversations_have_the_same_outcome(three: Judges) -> None:
    report = fuzz(three, range(SCRIPTS), seed=20)
    assert report.unlisted == []
    assert report.alike["stock"] + report.alike["js"] > SCRIPTS


def test_random_conversations_have_the_same_outcome_without_node() -> None:
    with judges(with_js=False) as two:
        assert fuzz(two, range(SCRIPTS), seed=21).unlisted == []


@pytest.mark.parametrize("name", differences.DIFFERENCES)
def test_every_listed_difference_is_one(three: Judges, name: str) -> None:
    """And is none with the sides that it does not name."""
    listed = differences.DIFFERENCES[name]
    seen = three.put_through(listed.example)
    found = findings(listed.example)
    assert [finding.name for finding in found][:1] == [name]
    differing = {side for side in ("stock", "js") if difference(seen["ours"], seen[side])}
    assert differing <= set(listed.sides)
    assert listed.by_chance or differing == set(listed.sides)


def test_the_document_has_the_list() -> None:
    """Write it again from `python -m scripts.yamux.differences`."""
    assert DOCUMENT.read_text(encoding="utf-8").endswith("\n" + differences.table())


def test_a_script_is_its_seed_and_number() -> None:
    assert conversations.script(3, 7) == conversations.script(3, 7)
    assert conversations.script(3, 7) != conversations.script(3, 8)
    whole = conversations.script(3, 7)
    assert whole.until(len(whole.bytes_in)).bytes_in == whole.bytes_in
    assert whole.until(9).bytes_in == whole.bytes_in[:9]


@pytest.mark.parametrize("end", [FIN, RST])
def test_bytes_behind_a_window_update_reach_their_reader(end: int) -> None:
    """All in one read, of a stream that is over with the last of them."""
    arrived = update(1, 5) + data(1, b"answer") + update(1, 0, end)
    script = Script(dialer=False, steps=(update(1, 0, SYN), Act("close", 1), arrived))
    with judges(with_js=False) as two:
        seen = two.put_through(script)
    assert seen["ours"].streams["1.1"].received == len(b"answer")
    assert difference(seen["ours"], seen["stock"]) == ""
