"""Images -> answers, as steps: decode, crop, ask, check; for one image as for a batch.

What is cheap is done in between, what takes long is a step of `Work`: an event loop gives that to a thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from client.buffers import Buffers, Lease
from client.contract import ModelContract
from client.deadline import Deadline
from client.errors import (
    BadResponse,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    RegionLost,
    ServerUnavailable,
    UnknownModel,
)
from client.images import ImageLike, Rgb, crop_into, is_pixels, rgb_from_image
from client.operations import Infer
from client.reply import Reply, predictions_from_scores, probabilities_from_reply, wrong_rows
from client.results import Classification, Timings
from client.retries import Call
from client.served import ServedModels
from client.steps import Steps, Work

# A model may be replaced while the client runs; then its contract is read again. Twice within one call is no accident.
MAX_CONTRACT_READS = 2
# What befalls one moment, or one image; any other error would meet the next image too, and ends a whole call.
OF_ONE_MOMENT = (ServerUnavailable, DeadlineExceeded, Overloaded)
OF_ONE_IMAGE = (InvalidImage, InferenceFailed, BadResponse, *OF_ONE_MOMENT)

Outcome = Classification | InceptionError


@dataclass(frozen=True)
class Wanted:
    """What is asked of every image: which model, and how much of its answer; `InvalidRequest` for no such thing."""

    model: str | None = None
    precision: str | None = None
    top_k: int = 5
    probabilities: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise InvalidRequest(f"top_k is {self.top_k!r}; expected a whole number, at least 1")


class Classifier:
    """Asks one server; `served` says what for, `buffers` where the pixels lie meanwhile."""

    def __init__(self, address: str, served: ServedModels, buffers: Buffers) -> None:
        self._address, self._served, self._buffers = address, served, buffers

    def contract(self, wanted: Wanted, call: Call) -> Steps[ModelContract]:
        """The contract of the model that is wanted."""
        return self._served.contract(wanted.model, wanted.precision, call)

    def outcomes(self, images: Sequence[ImageLike], wanted: Wanted, call: Call) -> Steps[list[Outcome]]:
        """The answer or the error of each of a few images, in their order, sent together.

        Decoding comes before anything is sent: a bad image costs no connection. Raises what would meet every image.
        """
        batch = _Batch(images, call.deadline)
        if all(map(is_pixels, images)):
            batch.decode()
        else:
            yield Work(batch.decode)
        if batch.decoded:
            try:
                contract = yield from self.contract(wanted, call)
            except OF_ONE_MOMENT as error:
                batch.fail(batch.decoded, error)
                return batch.outcomes()
            size = contract.max_batch_size
            for start in range(0, len(batch.decoded), size):
                part = batch.decoded[start : start + size]
                try:
                    yield from self._answer(batch, part, contract, wanted, call)
                except OF_ONE_IMAGE as error:
                    batch.fail(part, error)
        return batch.outcomes()

    def _answer(
        self, batch: _Batch, images: list[_Image], contract: ModelContract, wanted: Wanted, call: Call
    ) -> Steps[None]:
        """Answer images that fit into one request; contract and reply are of one and the same release."""
        for read in range(MAX_CONTRACT_READS):
            if read:
                former, contract = contract, (yield from self.contract(wanted, call))
                if contract.max_batch_size < len(images) <= former.max_batch_size:
                    for start in range(0, len(images), contract.max_batch_size):
                        part = images[start : start + contract.max_batch_size]
                        yield from self._answer(batch, part, contract, wanted, call)
                    return
            count, size = len(images), contract.preprocessing.crop
            while (lease := self._buffers.take(count, size)) is None:
                yield from self._buffers.grow(count, size, call)
            crop = Work(partial(batch.crop, images, contract, lease.batch), lease.release)
            try:
                sent = crop.function() if count == 1 else (yield crop)
                if not sent:
                    return
                asked_s = time.perf_counter()
                reply = yield from self._reply(contract, lease, len(sent), call)
                if reply is not None and reply.version == contract.version:
                    batch.answer(sent, reply, contract, wanted, time.perf_counter() - asked_s)
                    return
                self._served.forget()  # replaced or withdrawn: the next round says what is served instead
            except (InvalidRequest, BadResponse):
                # What the contract promises does not hold: perhaps another one does by now.
                self._served.forget()
                if read or (yield from self.contract(wanted, call)) == contract:
                    raise
            finally:
                if not crop.is_left:
                    lease.release()
        raise BadResponse(
            f"the model at {self._address} changed {MAX_CONTRACT_READS} times during one call: is it being "
            "republished in a loop?"
        )

    def _reply(self, contract: ModelContract, lease: Lease, count: int, call: Call) -> Steps[Reply | None]:
        """The reply to the first `count` images of `lease`; None where the server has that model no more."""
        infer = Infer(contract.served_name, contract.input_name, lease.batch[:count], lease.slot)
        try:
            try:
                return (yield from call.ask(infer))
            except RegionLost:  # the server was started anew
                yield from self._buffers.renew(call)
                return (yield from call.ask(infer))
        except UnknownModel:
            return None
        except ServerUnavailable:
            self._served.forget()  # what comes back may be another release
            raise


@dataclass(slots=True)
class _Image:
    """One image on its way: its place among the others, its pixels, and the seconds spent on it so far."""

    place: int
    rgb: Rgb
    preprocess_s: float


class _Batch:
    """A few images of one call, and what has become of each."""

    def __init__(self, images: Sequence[ImageLike], deadline: Deadline) -> None:
        self._started_s, self._deadline = time.perf_counter(), deadline
        self._images = images
        self._outcomes: list[Outcome | None] = [None] * len(images)
        self.decoded: list[_Image] = []

    def decode(self) -> None:
        """Decode each image that can be, in the time there is."""
        began_s = time.perf_counter()
        for place, image in enumerate(self._images):
            try:
                self._deadline.remaining_s()
                rgb = rgb_from_image(image)
            except (InvalidImage, DeadlineExceeded) as error:
                self._outcomes[place] = error
                continue
            ended_s = time.perf_counter()
            self.decoded.append(_Image(place, rgb, ended_s - began_s))
            began_s = ended_s

    def crop(self, images: list[_Image], contract: ModelContract, batch: npt.NDArray[np.uint8]) -> list[_Image]:
        """Crop each of `images` into the next row of `batch`; returns those that could be, in the order of rows."""
        sent: list[_Image] = []
        for image in images:
            began_s = time.perf_counter()
            try:
                crop_into(batch[len(sent)], image.rgb, contract.preprocessing)
            except InvalidImage as error:
                self._outcomes[image.place] = error
                continue
            image.preprocess_s += time.perf_counter() - began_s
            sent.append(image)
        return sent

    def answer(
        self, images: list[_Image], reply: Reply, contract: ModelContract, wanted: Wanted, inference_s: float
    ) -> None:
        """Put each image's answer, or that it cannot be right, into its place.

        Raises `BadResponse` for a reply that is none.
        """
        rows = probabilities_from_reply(reply, contract, len(images))
        wrong = wrong_rows(rows, contract)
        for row, (image, scores) in enumerate(zip(images, rows, strict=True)):
            self._outcomes[image.place] = wrong.get(row) or Classification(
                predictions_from_scores(scores, contract.labels, wanted.top_k),
                contract.architecture,
                contract.served_name,
                contract.precision,
                reply.version,
                contract.release,
                contract.emulated,
                Timings(
                    preprocess_ms=image.preprocess_s * 1e3,
                    inference_ms=inference_s * 1e3,
                    total_ms=(time.perf_counter() - self._started_s) * 1e3,
                ),
                scores if wanted.probabilities else None,
            )

    def fail(self, images: list[_Image], error: InceptionError) -> None:
        """`error` befell all of `images` that have no outcome yet."""
        for image in images:
            if self._outcomes[image.place] is None:
                self._outcomes[image.place] = error

    def outcomes(self) -> list[Outcome]:
        """What has become of each image, in their order."""
        return [outcome for outcome in self._outcomes if outcome is not None]
