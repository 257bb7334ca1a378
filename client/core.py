"""What `InceptionClient` and `AsyncInceptionClient` do, written once: steps that either of them performs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.buffers import Buffers, WireBuffers
from client.classification import OF_ONE_MOMENT, Classifier, Outcome, Wanted
from client.contract import ModelContract
from client.deadline import Deadline, checked_timeout_s
from client.errors import DeadlineExceeded, InceptionError, InvalidRequest, ServerUnavailable
from client.images import ImageLike
from client.memory import keep_freed_memory
from client.operations import Infer, ReadStatistics
from client.reply import probabilities_from_reply, wrong_rows
from client.results import Classification, ModelHealth, ModelStatistics
from client.retries import NO_RETRIES, Call, RetryBudget, RetryPolicy
from client.served import ServedModels
from client.steps import Pause, Steps

PROBE_INTERVAL_S = 0.25


class Core:
    """The state and the steps of a client of one server. `timeout_s` bounds every call that names no other."""

    def __init__(self, address: str, timeout_s: float, policy: RetryPolicy) -> None:
        self.address = address
        self.timeout_s = checked_timeout_s(timeout_s)
        if not isinstance(policy, RetryPolicy):
            raise InvalidRequest(f"retries is a {type(policy).__name__}; expected a RetryPolicy")
        self.served = ServedModels(address)
        self._policy, self._budget = policy, RetryBudget(policy)
        self._classifier = Classifier(address, self.served, WireBuffers())
        keep_freed_memory()

    def call(self, timeout_s: float | None = None) -> Call:
        """A new call, which begins now."""
        limit_s = self.timeout_s if timeout_s is None else checked_timeout_s(timeout_s)
        return Call(Deadline(limit_s), self._policy, self._budget)

    def with_buffers(self, buffers: Buffers) -> Core:
        """The same client, whose pixels lie elsewhere."""
        other = Core(self.address, self.timeout_s, self._policy)
        other.served, other._budget = self.served, self._budget
        other._classifier = Classifier(self.address, self.served, buffers)
        return other

    def classify(self, image: ImageLike, wanted: Wanted, call: Call) -> Steps[Classification]:
        """The answer for one image, or its error."""
        (outcome,) = yield from self._classifier.outcomes([image], wanted, call)
        if isinstance(outcome, InceptionError):
            raise outcome
        return outcome

    def outcomes(self, images: Sequence[ImageLike], wanted: Wanted, call: Call) -> Steps[list[Outcome]]:
        """See `Classifier.outcomes`."""
        return self._classifier.outcomes(images, wanted, call)

    def max_batch_size(self, wanted: Wanted, call: Call) -> Steps[int]:
        """How many images the model takes in one request."""
        contract = yield from self._classifier.contract(wanted, call)
        return contract.max_batch_size

    def models(self, call: Call) -> Steps[tuple[ModelContract, ...]]:
        """Every ready model of this project, as it describes itself."""
        return (yield from self.served.contracts(call))

    def statistics(self, call: Call) -> Steps[tuple[ModelStatistics, ...]]:
        """What every model of the server has done."""
        return (yield from call.ask(ReadStatistics()))

    def health(self, outer: Deadline | None = None) -> Steps[tuple[ModelHealth, ...]]:
        """One real inference on each model; each takes at most the client's own time-out, and what `outer` leaves."""
        entries = yield from self.served.index_or_usual(self._probe(outer))
        healths = []
        for entry in entries:
            if entry.is_ready:
                healths.append((yield from self._probed(entry.name, outer)))
            else:
                reason = ServerUnavailable(f"{entry.name} is not ready: {entry.reason}")
                healths.append(ModelHealth(entry.name, None, reason))
        return tuple(healths)

    def ready(self, timeout_s: float) -> Steps[tuple[ModelHealth, ...]]:
        """Ask for the health until every model is well, or until waiting cannot help."""
        deadline = Deadline(checked_timeout_s(timeout_s))
        obstacle = "there was no time to ask"
        while deadline.left_s() > 0:
            try:
                healths = yield from self.health(deadline)
            except OF_ONE_MOMENT as error:
                obstacle = str(error)
            else:
                errors = [each.error for each in healths if each.error is not None]
                if healths and not errors:
                    return healths
                incurable = [each for each in errors if not isinstance(each, OF_ONE_MOMENT)]
                if incurable:
                    raise incurable[0]
                obstacle = str(errors[0]) if errors else "the server serves no model of this project"
            yield Pause(min(PROBE_INTERVAL_S, deadline.left_s()))
        raise DeadlineExceeded(f"{self.address} was not ready within {timeout_s:g} s; the last obstacle: {obstacle}")

    def _probe(self, outer: Deadline | None) -> Call:
        """A call that is not tried again; `DeadlineExceeded` where `outer` leaves no time."""
        limit_s = self.timeout_s if outer is None else min(self.timeout_s, outer.remaining_s())
        return Call(Deadline(limit_s), NO_RETRIES, self._budget)

    def _probed(self, name: str, outer: Deadline | None) -> Steps[ModelHealth]:
        try:
            call = self._probe(outer)
            contract = yield from self.served.read(name, call)
            asked_s = time.perf_counter()
            reply = yield from call.ask(Infer(name, contract.input_name, _pattern(contract.preprocessing.crop)))
            wrong = wrong_rows(probabilities_from_reply(reply, contract, 1), contract)
        except InceptionError as error:
            return ModelHealth(name, None, error)
        if wrong:
            return ModelHealth(name, None, wrong[0])
        return ModelHealth(name, (time.perf_counter() - asked_s) * 1e3, None)


def _pattern(size: int) -> npt.NDArray[np.uint8]:
    """One crop that is like no other in every corner."""
    return np.arange(size * size * 3, dtype=np.uint32).astype(np.uint8).reshape(1, size, size, 3)
