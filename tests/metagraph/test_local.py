"""What a node remembers of rotations that it has honoured: as long as they can be presented."""

from aigrid.metagraph.local import Honoured, LocalState
from aigrid.metagraph.store import Store


def test_a_rotation_is_remembered_by_both_keys_until_it_ends(tmp_path):
    path = tmp_path / "records.db"
    local = LocalState(Store(path))
    local.note_rotation("did:a", Honoured("did:b", 10, 100))
    local.note_rotation("did:b", Honoured("did:c", 20, 120))
    again = LocalState(Store(path))
    assert again.rotation_of("did:a") == Honoured("did:b", 10, 100)
    assert again.rotation_of("did:c") is None
    found = [again.successor_of(f"did:{name}") for name in "abcd"]
    assert found == ["did:c", "did:c", None, None]
    assert (again.rotated_to_ms("did:c"), again.rotated_to_ms("did:a")) == (20, None)
    again.note_rotation("did:x", Honoured("did:y", 100, 200))
    assert again.rotation_of("did:a") is None
    assert again.rotation_of("did:b") is not None


def test_keys_that_succeed_each_other_have_an_end():
    local = LocalState(Store(None))
    local.note_rotation("did:a", Honoured("did:b", 1, 9))
    local.note_rotation("did:b", Honoured("did:a", 2, 9))
    assert local.successor_of("did:a") == "did:b"


def test_rotations_are_apart_from_other_settings():
    local = LocalState(Store(None))
    local.grid = "did:grid"
    local.note_rotation("grid", Honoured("did:b", 1, 2))
    local.note_rotation("did:*", Honoured("did:c", 1, 2))
    assert local.grid == "did:grid"
    assert local.rotation_of("grid") == Honoured("did:b", 1, 2)
    assert local.rotation_of("did:z") is None
