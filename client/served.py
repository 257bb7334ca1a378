"""Which served model a call means, and its contract, read once."""

from __future__ import annotations

import time
from dataclasses import replace

from client.contract import ModelContract, contract_from_config
from client.errors import InceptionError, InvalidRequest, NotAllowed, ServerUnavailable, UnknownModel
from client.names import PRECISIONS, checked_precision, served_name, slug_and_precision, usual_served_names
from client.operations import AskReady, IndexEntry, ListModels, ReadConfig, ReadVersion
from client.retries import Call
from client.steps import Steps

# A server may be started anew with other models under the same version numbers, and no reply would tell.
MAX_CONTRACT_AGE_S = 10.0


class ServedModels:
    """What one server serves, as steps. Contracts are kept for seconds, or until `forget`.

    Reading one twice at once is harmless.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._contracts: dict[tuple[str | None, str | None], tuple[ModelContract, float]] = {}

    def contract(self, model: str | None, precision: str | None, call: Call) -> Steps[ModelContract]:
        """The contract of the model meant.

        `model` None is allowed where exactly one is served; `precision` None means fp16 where served, else fp32. Raises
        `UnknownModel` with a list of what is served, `InvalidRequest` for a contradiction, and what
        `contract_from_config` raises.
        """
        if model is not None and not isinstance(model, str):
            raise InvalidRequest(f"model is a {type(model).__name__}; expected a name such as 'InceptionV3', or None")
        if precision is not None and not isinstance(precision, str):
            raise InvalidRequest(f"precision is a {type(precision).__name__}; expected 'fp16', 'fp32' or None")
        kept = self._kept(model, precision)
        if kept is None:
            kept = yield from self._read_contract(model, checked_precision(precision), call)
            self._contracts[model, precision] = kept, time.monotonic() + MAX_CONTRACT_AGE_S
        return kept

    def _kept(self, model: str | None, precision: str | None) -> ModelContract | None:
        """The contract that `contract` would return, where it was read a short while ago."""
        try:
            contract, ends_s = self._contracts[model, precision]
        except (KeyError, TypeError):  # a name that cannot be hashed is refused by `contract`
            return None
        return contract if time.monotonic() < ends_s else None

    def forget(self) -> None:
        """Read every contract again when it is next needed: something on the server has changed."""
        self._contracts.clear()

    def index(self, call: Call) -> Steps[tuple[IndexEntry, ...]]:
        """The models of this project that the server is to serve, by name, ready or not.

        A model that lies in the repository but is not loaded is left out; one that failed to load is not. Raises
        `NotAllowed` where listing is restricted.
        """
        entries = yield from call.ask(ListModels())
        ours = (entry for entry in entries if _is_served_name(entry.name) and not entry.is_unloaded)
        return tuple(sorted(ours, key=lambda entry: entry.name))

    def index_or_usual(self, call: Call) -> Steps[tuple[IndexEntry, ...]]:
        """`index`, or where listing is restricted the models of the usual names that are ready.

        A model at an unusual input size is not found then.
        """
        try:
            return (yield from self.index(call))
        except NotAllowed:
            found = []
            for name in usual_served_names():
                if (yield from call.ask(AskReady(name))):
                    found.append(IndexEntry(name, is_ready=True, reason=""))
            return tuple(found)

    def contracts(self, call: Call) -> Steps[tuple[ModelContract, ...]]:
        """The contract of every ready model, by name, freshly read; `NotAllowed` where listing is restricted."""
        contracts = []
        for entry in (yield from self.index(call)):
            if entry.is_ready:
                contracts.append((yield from self.read(entry.name, call)))
        return tuple(contracts)

    def read(self, name: str, call: Call) -> Steps[ModelContract]:
        """The contract of the model served as `name`, freshly read.

        The version first: if the model is replaced between the two questions, its first reply shows another version,
        and the contract is read again. The other order could pair a new version with an old config for good.
        """
        version = yield from call.ask(ReadVersion(name))
        config = yield from call.ask(ReadConfig(name))
        return contract_from_config(replace(config, version=version))

    def _read_contract(self, model: str | None, precision: str | None, call: Call) -> Steps[ModelContract]:
        slug, precision = yield from self._meant(model, precision, call)
        for each in (precision,) if precision is not None else PRECISIONS:
            try:
                return (yield from self.read(served_name(slug, each), call))
            except UnknownModel:
                continue
        wanted = slug if precision is None else served_name(slug, precision)
        listed = yield from self._listed(call)
        raise UnknownModel(f"{wanted!r} is not served at {self._address}; {listed}")

    def _meant(self, model: str | None, precision: str | None, call: Call) -> Steps[tuple[str, str | None]]:
        if model is None:
            return (yield from self._only_slug(call)), precision
        parsed = slug_and_precision(model)
        if parsed is None:
            listed = yield from self._listed(call)
            raise UnknownModel(f"no model is called {model[:80]!r}; {listed}")
        slug, named_precision = parsed
        if precision is not None and named_precision not in (None, precision):
            raise InvalidRequest(f"model {model!r} is {named_precision}, but precision={precision!r} was asked for")
        return slug, precision or named_precision

    def _only_slug(self, call: Call) -> Steps[str]:
        index = yield from self.index_or_usual(call)
        names = [entry.name for entry in index if entry.is_ready]
        slugs = {parsed[0] for parsed in map(slug_and_precision, names) if parsed is not None}
        if not slugs:
            raise UnknownModel(f"{self._address} serves no model of this project: publish one")
        if len(slugs) > 1:
            raise InvalidRequest(f"model may be left out only where one is served; {_served(names)}")
        return slugs.pop()

    def _listed(self, call: Call) -> Steps[str]:
        """What is served, for a message.

        Raises `ServerUnavailable` where the server is about to end: Triton then says that it has no model at all.
        """
        try:
            index = yield from self.index_or_usual(call)
        except ServerUnavailable:
            raise
        except InceptionError as error:
            return f"what is served could not be listed: {error}"
        return _served([entry.name for entry in index if entry.is_ready])


def _is_served_name(name: str) -> bool:
    parsed = slug_and_precision(name)
    return parsed is not None and parsed[1] is not None and name == served_name(parsed[0], parsed[1])


def _served(names: list[str]) -> str:
    return f"served are: {', '.join(names)}" if names else "no model of this project is served there"
