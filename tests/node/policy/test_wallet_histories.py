"""Any history of a wallet, restarts included, ends in what a naive model says."""

import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.node.policy.test_wallet import ACTOR, DAY_MS, INVOKE, MIDDLE, OTHER, OWN, World

from aigrid.metagraph.database import Database
from aigrid.node.policy import wallet as wallet_module
from aigrid.node.policy.wallet import Terms
from aigrid.protocol.credential_kinds import DelegationBody
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import Limits
from aigrid.protocol.record import Record

FEW = Limits(credentials_held_max=9, credentials_given_max=6, credentials_of_one_max=4)
HOLDERS = {who.did: who for who in (MIDDLE, ACTOR, OWN, OTHER)}
BEHALVES = ("", MIDDLE.did, ACTOR.did)
WAYS = ([OWN], [MIDDLE, OWN], [ACTOR, OWN], [MIDDLE, ACTOR, OWN], [OWN, ACTOR, OWN], [ACTOR, OTHER])
PEERS = ("", "ann", "ben")


def parent(record: Record) -> str:
    return record.body.parent if isinstance(record.body, DelegationBody) else ""


def behalf(record: Record) -> str:
    own = isinstance(record.body, DelegationBody) and record.body.on_behalf
    return record.issuer if own else ""


class Naive:
    """What is held, and by whom it was given."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[Record, str]] = {}

    def line(self, end: Record, known: dict[str, Record]) -> tuple[Record, ...] | None:
        """The chain that ends with a record, if all of it is known and it may end here."""
        links = [end]
        while parent(links[0]):
            if parent(links[0]) not in known:
                return None
            links.insert(0, known[parent(links[0])])
        passed_on = any(behalf(link) for link in links[:-1])
        return None if passed_on or end.subject != OWN.did else tuple(links)

    def take(self, batch: list[Record], given_by: str, now: int) -> bool:
        if not 1 <= len(batch) <= 4 or any(link.valid_until_ms <= now for link in batch):
            return False
        known = {name: record for name, (record, _) in self.held.items()}
        known |= {link.content_id: link for link in batch}
        ends = [link for link in batch if link.subject == OWN.did]
        lines = [self.line(end, known) for end in ends]
        if not ends or None in lines:
            return False
        needed = {link.content_id for line in lines if line for link in line}
        if any(link.content_id not in needed for link in batch):
            return False
        news = {link.content_id for link in batch} - self.held.keys()
        if not self.has_room(len(news), given_by):
            self.held = {n: kept for n, kept in self.held.items() if kept[0].valid_until_ms > now}
            if not self.has_room(
                len({link.content_id for link in batch} - self.held.keys()), given_by
            ):
                return False
        for link in batch:
            before = self.held.get(link.content_id)
            self.held[link.content_id] = (link, given_by and before[1] if before else given_by)
        return True

    def has_room(self, news: int, given_by: str) -> bool:
        given = [peer for _, peer in self.held.values() if peer]
        if not news:
            return True
        if len(self.held) + news > FEW.credentials_held_max:
            return False
        return not given_by or (
            len(given) + news <= FEW.credentials_given_max
            and given.count(given_by) + news <= FEW.credentials_of_one_max
        )

    def chains(self, who: str, now: int, *, ended: bool) -> set[tuple[str, ...]]:
        known = {name: record for name, (record, _) in self.held.items()}
        found = set()
        for end in known.values():
            links = self.line(end, known)
            if links is None or behalf(end) != who:
                continue
            if any(link.valid_until_ms <= now for link in links) is ended:
                found.add(tuple(link.content_id for link in links))
        return found

    def forget(self, name: str) -> None:
        self.held.pop(name)
        for other in [n for n, (record, _) in self.held.items() if parent(record) == name]:
            if other in self.held:
                self.forget(other)


class Histories(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.patched = mock.patch.object(wallet_module, "LIMITS", FEW)
        self.patched.start()
        self.folder = tempfile.TemporaryDirectory()
        self.world, self.naive = World(), Naive()
        self.made: list[tuple[Record, ...]] = []
        self.database = Database(Path(self.folder.name) / "db")
        self.wallet = self.world.wallet(OWN, self.database)

    @rule(
        holders=st.sampled_from(WAYS),
        valid_ms=st.sampled_from([1000, DAY_MS]),
        on_behalf=st.booleans(),
    )
    def somebody_passes_on(self, holders, valid_ms, on_behalf) -> None:
        terms = {"valid_ms": valid_ms, "delegable": len(holders) - 1}
        line = (self.world.grant(holders[0], **terms),)
        for number, to in enumerate(holders[1:], 2):
            wallet = self.world.wallet(HOLDERS[line[-1].subject])
            wallet.take([link.raw for link in line])
            last = number == len(holders)
            line = wallet.delegate(
                line[-1].content_id,
                to.did,
                INVOKE,
                Terms(delegable=len(holders) - number),
                on_behalf=on_behalf and last,
            )
        self.made.append(line)

    @precondition(lambda self: self.made)
    @rule(
        data=st.data(), given_by=st.sampled_from(PEERS), mixed=st.sampled_from([False, False, True])
    )
    def credentials_come(self, data, given_by, mixed) -> None:
        if mixed:
            links = [link for line in self.made[-6:] for link in line]
            batch = data.draw(st.lists(st.sampled_from(links), min_size=1, max_size=5))
        else:
            line = data.draw(st.sampled_from(self.made[-6:]))
            batch = list(data.draw(st.permutations(line)))
        expected = self.naive.take(batch, given_by, self.world.ms)
        try:
            self.wallet.take([link.raw for link in batch], given_by=given_by)
        except AigridError:
            assert not expected
        else:
            assert expected

    @precondition(lambda self: self.naive.held)
    @rule(data=st.data())
    def one_is_forgotten(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.held)))
        self.naive.forget(name)
        assert self.wallet.forget(name)
        assert not self.wallet.forget(name)

    @rule(step=st.sampled_from([1, 999, 1000, DAY_MS]))
    def time_passes(self, step) -> None:
        self.world.ms += step

    @rule()
    def the_node_restarts(self) -> None:
        self.database.close()
        self.database = Database(Path(self.folder.name) / "db")
        self.wallet = self.world.wallet(OWN, self.database)

    @invariant()
    def it_answers_what_it_should(self) -> None:
        if not hasattr(self, "wallet"):
            return
        held = {kept.record.content_id: kept.given_by for kept in self.wallet.all(held=True)}
        assert held == {name: peer for name, (_, peer) in self.naive.held.items()}
        for who in BEHALVES:
            for ended in (False, True):
                chains = self.wallet.chains(who, ended=ended)
                assert [*map(len, chains)] == sorted(map(len, chains))
                found = {tuple(link.content_id for link in line) for line in chains}
                assert found == self.naive.chains(who, self.world.ms, ended=ended)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.database.close()
            self.folder.cleanup()
            self.patched.stop()


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
test_any_history_ends_in_what_the_naive_model_says = Histories.TestCase
