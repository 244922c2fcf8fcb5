"""What names of models mean to this node: what it has used, what it knew first, and its pins."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import structlog

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.naming import Claim, Standing, Usage, after_use, meant
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record

log = structlog.get_logger()
_USED, _FIRST = "names/used/", "names/first/"
_DAY_MS = 86_400_000
NO_PINS: Final[Mapping[str, str]] = MappingProxyType({})


class Names:
    """What was used, and what was known first, kept in the data directory.

    The latter only of names that are contested. `word()` gives what the word of a DID weighs now.

    Attributes:
        pinned: name -> the model id that the operator has given it to.
    """

    def __init__(
        self,
        local: LocalState,
        graph: Metagraph,
        *,
        trusted: Collection[str],
        pinned: Mapping[str, str],
        word: Callable[[], Callable[[str], float]],
        now_ms: NowMs,
    ) -> None:
        self._local = local
        self._graph = graph
        self._trusted = trusted
        self._word = word
        self._now_ms = now_ms
        self.pinned = pinned
        self._used: OrderedDict[str, Usage] = OrderedDict()
        self._written_ms: dict[str, int] = {}
        self._first: dict[str, str] = {}
        self._contested: set[str] = set()
        self._read()
        graph.listeners.append(self._on_record)

    def resolve(self, name_or_id: str) -> tuple[str, ...]:
        """The model id that is meant; several where nothing decides, none where it is unknown."""
        index, now_ms = self._graph.index, self._now_ms()
        name = self.pinned.get(name_or_id, name_or_id)
        found = index.resolve(name, now_ms)
        if len(found) < 2:
            return found
        claims = [Claim(model, self._publishers(model, name)) for model in found]
        standing = Standing(self._graph.own_did, self._trusted, self._word())
        used, first = self._used.get(name), self._first.get(name)
        return meant(claims, standing, used=used, first=first)

    def publishers(self, model: str) -> tuple[str, ...]:
        """DIDs of those who describe a model, in order."""
        manifests = self._graph.index.manifests_of(model, self._now_ms())
        return tuple(sorted({record.issuer for record in manifests}))

    def used(self, name: str, model: str, manifest: str) -> None:
        """A request for what is called so was answered by a model under a manifest (a content id).

        What is asked for by its id, or pinned, needs no memory.
        """
        now_ms = self._now_ms()
        record = self._graph.index.manifest(manifest, now_ms)
        if record is None or _name_of(record) != name or name in self.pinned:
            return
        before = self._used.get(name)
        kept_ms = round(LIMITS.name_used_seconds * 1000)
        usage = after_use(before, Usage(model, record.issuer, now_ms), kept_ms=kept_ms)
        self._used[name] = usage
        self._used.move_to_end(name)
        same = before is not None and usage.model == before.model
        if not same or now_ms - self._written_ms.get(name, 0) > _DAY_MS:
            self._write(_USED + name, msgspec.json.encode(usage).decode())
            self._written_ms[name] = now_ms
        if len(self._used) > LIMITS.names_kept_max:
            gone, _ = self._used.popitem(last=False)
            self._written_ms.pop(gone, None)
            self._forget(_USED + gone)

    def _on_record(self, record: Record) -> None:
        name = "" if record.withdrawn else _name_of(record)
        if not name:
            return
        model = record.subject.removeprefix(MODEL_URN)
        first = self._first.get(name)
        if first == model:
            return
        if first is None or first not in self._graph.index.resolve(name, self._now_ms()):
            self._note_first(name, model)
        elif name not in self._contested and len(self._contested) < LIMITS.names_kept_max:
            self._contested.add(name)
            self._write(_FIRST + name, first)

    def _note_first(self, name: str, model: str) -> None:
        if len(self._first) >= LIMITS.names_known_max:
            index, now_ms = self._graph.index, self._now_ms()
            self._first = {
                one: first for one, first in self._first.items() if index.resolve(one, now_ms)
            }
        if name in self._contested:
            self._contested.discard(name)
            self._forget(_FIRST + name)
        if len(self._first) < LIMITS.names_known_max:
            self._first[name] = model

    def _publishers(self, model: str, name: str) -> frozenset[str]:
        manifests = self._graph.index.manifests_of(model, self._now_ms())
        return frozenset(record.issuer for record in manifests if _name_of(record) == name)

    def _read(self) -> None:
        """What was written, and of names that one model has that one."""
        for key, text in self._local.all(_USED):
            try:
                self._used[key.removeprefix(_USED)] = msgspec.json.decode(text, type=Usage)
            except msgspec.MsgspecError:
                log.warning("name_not_read", name=key.removeprefix(_USED))
                self._forget(key)
        for key, model in self._local.all(_FIRST):
            self._first[key.removeprefix(_FIRST)] = model
        self._contested |= self._first.keys()
        named: dict[str, set[str]] = {}
        for summary in self._graph.index.models(self._now_ms()):
            for name in summary.names:
                named.setdefault(name, set()).add(summary.model)
        for name, models in named.items():
            if len(models) == 1:
                self._first.setdefault(name, *models)

    def _write(self, key: str, value: str) -> None:
        """What a full disk does not take is known until this node ends."""
        try:
            self._local.set(key, value)
        except AigridError as error:
            log.warning("name_not_kept", code=error.code.value, reason=error.message)

    def _forget(self, key: str) -> None:
        try:
            self._local.remove(key)
        except AigridError as error:
            log.warning("name_not_forgotten", code=error.code.value, reason=error.message)


def _name_of(record: Record) -> str:
    return record.body.name if isinstance(record.body, ModelBody) else ""
