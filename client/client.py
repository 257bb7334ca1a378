"""`InceptionClient`: an image in, labels out. Thin: decoding, naming, sending and checking have their own modules."""

from __future__ import annotations

import time
from types import TracebackType

import numpy as np

from client.contract import ModelContract
from client.deadline import Deadline, checked_timeout_s
from client.errors import (
    BadResponse,
    DeadlineExceeded,
    InceptionError,
    InvalidRequest,
    Overloaded,
    ServerUnavailable,
    UnknownModel,
)
from client.images import ImageLike, Rgb, crop_from_rgb, rgb_from_image
from client.reply import Reply, predictions_from_scores, probabilities_from_reply
from client.results import Classification, ModelHealth
from client.served import ServedModels
from client.transport import GrpcTransport, Transport, address_from_url

# A model may be replaced while the client runs; then its contract is read again. Twice within one call is no accident.
MAX_CONTRACT_READS = 2
PROBE_INTERVAL_S = 0.25


class InceptionClient:
    """Classifies images on a Triton server that serves this project's models, over gRPC.

    `url` is `host:port` or `grpc://host:port`; `token` opens what the server restricts, and is sent with every call;
    every call ends within `timeout_s` seconds, but `health`, which takes up to that for each model, and
    `wait_until_ready`, which is told its own. One client may be used from several threads. It connects when it is
    first used; a `with` block or `close()` ends it. Every failure is an `InceptionError`, see `client.errors`.

        with InceptionClient("localhost:8001") as client:
            print(client.classify("cat.jpg", model="InceptionV3").best.label)
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 30.0) -> None:
        self._timeout_s = checked_timeout_s(timeout_s)
        self._transport: Transport = GrpcTransport(address_from_url(url), token)
        self._served = ServedModels(self._transport)

    def classify(
        self, image: ImageLike, model: str | None = None, precision: str | None = None, top_k: int = 5
    ) -> Classification:
        """The `top_k` most probable classes of one image.

        `image` is a path, the bytes of a JPEG, PNG or WEBP file, a binary file object, a PIL image, or a uint8 RGB
        array [height, width, 3]; the model says how it is resized and cropped. `model` is "InceptionV3",
        "inception_v3" or "inception_v3_fp16", and may be left out where one architecture is served; `precision` None
        means fp16 where served, else fp32, and the result says which it was.
        """
        started_s = time.perf_counter()
        deadline = Deadline(self._timeout_s)
        rgb = rgb_from_image(image)  # before anything is sent: a bad image costs no connection
        decode_s = time.perf_counter() - started_s
        contract, reply, crop_s, inference_s = self._answer(rgb, model, precision, top_k, deadline)
        scores = probabilities_from_reply(reply, contract)
        return Classification(
            predictions=predictions_from_scores(scores, contract.labels, top_k),
            model=contract.architecture,
            served_name=contract.served_name,
            precision=contract.precision,
            version=reply.version,
            release=contract.release,
            emulated=contract.emulated,
            preprocess_ms=(decode_s + crop_s) * 1e3,
            inference_ms=inference_s * 1e3,
            total_ms=(time.perf_counter() - started_s) * 1e3,
        )

    def models(self) -> tuple[ModelContract, ...]:
        """Every model of this project that the server serves, as it describes itself, sorted by served name."""
        return self._served.contracts(Deadline(self._timeout_s))

    def health(self) -> tuple[ModelHealth, ...]:
        """One real inference on every model that is to be served; the server's own word is not asked for.

        Triton goes on calling a model ready after the process behind it has died. The list of models may take
        `timeout_s` and each model may take it again, one after the other, so that one that hangs does not make the
        next look ill: with n models the call ends within (n + 1) * `timeout_s`.
        """
        return self._health(None)

    def wait_until_ready(self, timeout_s: float) -> tuple[ModelHealth, ...]:
        """Wait until at least one model is served and every one answered a real inference.

        Raises `DeadlineExceeded` with the last obstacle after `timeout_s` seconds, however many models there are (no
        model is given more than the client's own `timeout_s`), and at once what waiting cannot cure: a wrong token, a
        damaged model.
        """
        deadline = Deadline(checked_timeout_s(timeout_s))
        obstacle = "there was no time to ask"
        while deadline.left_s() > 0:
            try:
                health = self._health(deadline)
            except _CURED_BY_WAITING as error:
                obstacle = str(error)
            else:
                errors = [each.error for each in health if each.error is not None]
                if health and not errors:
                    return health
                incurable = [each for each in errors if not isinstance(each, _CURED_BY_WAITING)]
                if incurable:
                    raise incurable[0]
                obstacle = str(errors[0]) if errors else "the server serves no model of this project"
            time.sleep(min(PROBE_INTERVAL_S, deadline.left_s()))
        raise DeadlineExceeded(
            f"{self._transport.address} was not ready within {timeout_s:g} s; the last obstacle: {obstacle}"
        )

    def close(self) -> None:
        """Close the connection; closing twice is harmless, any other use afterwards raises `ClientClosed`."""
        self._transport.close()

    def __enter__(self) -> InceptionClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<InceptionClient of {self._transport.address}>"

    def _answer(
        self, rgb: Rgb, model: str | None, precision: str | None, top_k: int, deadline: Deadline
    ) -> tuple[ModelContract, Reply, float, float]:
        """The contract and the reply of one and the same release, and the seconds spent cropping and waiting."""
        for _ in range(MAX_CONTRACT_READS):
            contract = self._served.contract(model, precision, deadline)
            _check_top_k(top_k, contract)
            started_s = time.perf_counter()
            crop = crop_from_rgb(rgb, contract.preprocessing)
            cropped_s = time.perf_counter()
            try:
                reply = self._infer(contract, crop, deadline)
            except UnknownModel:
                self._served.forget()  # it was withdrawn: the next round says what is served instead
                continue
            if reply.version == contract.version:
                return contract, reply, cropped_s - started_s, time.perf_counter() - cropped_s
            self._served.forget()
        raise BadResponse(
            f"the model at {self._transport.address} changed {MAX_CONTRACT_READS} times during one call: "
            "is it being republished in a loop?"
        )

    def _infer(self, contract: ModelContract, crop: Rgb, deadline: Deadline) -> Reply:
        try:
            return self._transport.infer(
                contract.served_name, contract.input_name, crop[np.newaxis], deadline.remaining_s()
            )
        except ServerUnavailable:
            self._served.forget()  # what comes back may be another release
            raise

    def _health(self, outer: Deadline | None) -> tuple[ModelHealth, ...]:
        entries = self._served.index(self._part_of(outer))
        return tuple(
            self._probed(entry.name, outer)
            if entry.is_ready
            else ModelHealth(entry.name, None, ServerUnavailable(f"{entry.name} is not ready: {entry.reason}"))
            for entry in entries
        )

    def _part_of(self, outer: Deadline | None) -> Deadline:
        """The client's own timeout, cut to what is left of `outer`; `DeadlineExceeded` where nothing is."""
        return Deadline(self._timeout_s if outer is None else min(self._timeout_s, outer.remaining_s()))

    def _probed(self, name: str, outer: Deadline | None) -> ModelHealth:
        try:
            deadline = self._part_of(outer)
            contract = self._served.read(name, deadline)
            size = contract.preprocessing.crop
            crop = np.arange(size * size * 3, dtype=np.uint32).astype(np.uint8).reshape(size, size, 3)
            started_s = time.perf_counter()
            probabilities_from_reply(self._infer(contract, crop, deadline), contract)
        except InceptionError as error:
            return ModelHealth(name, None, error)
        return ModelHealth(name, (time.perf_counter() - started_s) * 1e3, None)


_CURED_BY_WAITING = (ServerUnavailable, DeadlineExceeded, Overloaded)


def _check_top_k(top_k: int, contract: ModelContract) -> None:
    classes = len(contract.labels)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= classes:
        raise InvalidRequest(f"top_k is {top_k!r}; expected a whole number from 1 to {classes}, the model's classes")
