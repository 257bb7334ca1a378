"""Which served model a call means, and its contract, read once."""

from __future__ import annotations

from client.contract import ModelContract, contract_from_config
from client.deadline import Deadline
from client.errors import InceptionError, InvalidRequest, NotAllowed, UnknownModel
from client.names import (
    PRECISIONS,
    checked_precision,
    served_name,
    slug_and_precision,
    usual_served_names,
)
from client.transport import IndexEntry, Transport


class ServedModels:
    """What one server serves. Contracts are kept until `forget`; reading two at once from two threads is harmless."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._contracts: dict[tuple[str | None, str | None], ModelContract] = {}

    def contract(self, model: str | None, precision: str | None, deadline: Deadline) -> ModelContract:
        """The contract of the model meant.

        `model` None is allowed where exactly one is served; `precision` None means fp16 where served, else fp32. Raises
        `UnknownModel` with a list of what is served, `InvalidRequest` for a contradiction, and what
        `contract_from_config` raises.
        """
        if model is not None and not isinstance(model, str):
            raise InvalidRequest(f"model is a {type(model).__name__}; expected a name such as 'InceptionV3', or None")
        if precision is not None and not isinstance(precision, str):
            raise InvalidRequest(f"precision is a {type(precision).__name__}; expected 'fp16', 'fp32' or None")
        kept = self._contracts.get((model, precision))
        if kept is None:
            kept = self._read_contract(model, checked_precision(precision), deadline)
            self._contracts[model, precision] = kept
        return kept

    def forget(self) -> None:
        """Read every contract again when it is next needed: something on the server has changed."""
        self._contracts.clear()

    def index(self, deadline: Deadline) -> tuple[IndexEntry, ...]:
        """The models of this project that the server is to serve, by name, ready or not.

        A model that lies in the repository but is not loaded is left out; one that failed to load is not.
        Where listing is restricted, the usual names are asked for one by one; models at an unusual input size are then
        not found.
        """
        try:
            entries = self._transport.index(deadline.remaining_s())
        except NotAllowed:
            entries = tuple(
                IndexEntry(name, True, "")
                for name in usual_served_names()
                if self._transport.is_model_ready(name, deadline.remaining_s())
            )
        ours = (entry for entry in entries if _is_served_name(entry.name) and not entry.is_unloaded)
        return tuple(sorted(ours, key=lambda entry: entry.name))

    def contracts(self, deadline: Deadline) -> tuple[ModelContract, ...]:
        """The contract of every ready model, by name, freshly read."""
        return tuple(self.read(entry.name, deadline) for entry in self.index(deadline) if entry.is_ready)

    def read(self, name: str, deadline: Deadline) -> ModelContract:
        """The contract of the model served as `name`, freshly read."""
        return contract_from_config(self._transport.config(name, deadline.remaining_s()))

    def _read_contract(self, model: str | None, precision: str | None, deadline: Deadline) -> ModelContract:
        slug, precision = self._meant(model, precision, deadline)
        for each in (precision,) if precision is not None else PRECISIONS:
            try:
                return self.read(served_name(slug, each), deadline)
            except UnknownModel:
                continue
        wanted = slug if precision is None else served_name(slug, precision)
        raise UnknownModel(f"{wanted!r} is not served at {self._transport.address}; {self._listed(deadline)}")

    def _meant(self, model: str | None, precision: str | None, deadline: Deadline) -> tuple[str, str | None]:
        if model is None:
            return self._only_slug(deadline), precision
        parsed = slug_and_precision(model)
        if parsed is None:
            raise UnknownModel(f"no model is called {model[:80]!r}; {self._listed(deadline)}")
        slug, named_precision = parsed
        if precision is not None and named_precision not in (None, precision):
            raise InvalidRequest(f"model {model!r} is {named_precision}, but precision={precision!r} was asked for")
        return slug, precision or named_precision

    def _only_slug(self, deadline: Deadline) -> str:
        names = [entry.name for entry in self.index(deadline) if entry.is_ready]
        slugs = {parsed[0] for parsed in map(slug_and_precision, names) if parsed is not None}
        if not slugs:
            raise UnknownModel(f"{self._transport.address} serves no model of this project: publish one")
        if len(slugs) > 1:
            raise InvalidRequest(f"model may be left out only where one is served; {_served(names)}")
        return slugs.pop()

    def _listed(self, deadline: Deadline) -> str:
        try:
            return _served([entry.name for entry in self.index(deadline) if entry.is_ready])
        except InceptionError as error:
            return f"what is served could not be listed: {error}"


def _is_served_name(name: str) -> bool:
    parsed = slug_and_precision(name)
    return parsed is not None and parsed[1] is not None and name == served_name(parsed[0], parsed[1])


def _served(names: list[str]) -> str:
    return f"served are: {', '.join(names)}" if names else "no model of this project is served there"
