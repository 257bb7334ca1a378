"""`InceptionClient`: an image in, labels out. Thin: `core` knows what is done, this module waits for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from types import TracebackType
from typing import Literal, TypeVar, overload

from client.arena import Arena
from client.classification import Outcome, Wanted
from client.connect import transport_for
from client.connection import Tls, connection_from_urls
from client.contract import ModelContract
from client.core import Core
from client.errors import InceptionError, SomeFailed
from client.images import ImageLike
from client.results import Classification, ModelHealth, ModelStatistics
from client.retries import Call, RetryPolicy
from client.steps import Steps, run
from client.stream import OnError, check_several, check_sizes, checked_on_error, stream, window_of, with_index
from client.transport import Transport

T = TypeVar("T")


class InceptionClient:
    """Classifies images on a Triton server that serves this project's models.

    `url` is `host:port` or `grpc://host:port` for gRPC, `grpcs://` for gRPC over TLS, `http://` or `https://` for HTTP,
    or a list of gRPC addresses that serve the same and are used in turn. `token` opens what the server restricts;
    `headers` are sent with every request. Every call ends within `timeout_s` seconds, tries again included, but for
    `health`, which takes up to that for each model, and `classify_many`, which takes it for each batch.

    One client may be used from several threads, and from a process forked from its own (over gRPC where
    GRPC_ENABLE_FORK_SUPPORT=1 is set). It connects when it is first used; a `with` block or `close()` ends it. Every
    failure is an `InceptionError`, see `client.errors`.

        with InceptionClient("localhost:8001") as client:
            print(client.classify("cat.jpg", model="InceptionV3").best.label)
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        keepalive_s: float | None = None,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    ) -> None:
        connection = connection_from_urls(url, token=token, headers=headers, tls=tls, keepalive_s=keepalive_s)
        core = Core(connection.shown, timeout_s, retries)
        transport = transport_for(connection)
        self._begin(transport, core, transport.close)

    def _begin(self, transport: Transport, core: Core, *closing: Callable[[], object]) -> None:
        """`closing` is what `close` does, in this order, once."""
        self._transport, self._core, self._closing = transport, core, closing
        self._pid = os.getpid()

    @classmethod
    def over(
        cls,
        transport: Transport,
        *,
        timeout_s: float = 30.0,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008
    ) -> InceptionClient:
        """A client of any `Transport`, such as `client.testing.FakeServer`."""
        client = cls.__new__(cls)
        client._begin(transport, Core(transport.address, timeout_s, retries), transport.close)
        return client

    @classmethod
    def local(
        cls, repository: str | PathLike[str], *, models: Sequence[str] | None = None, timeout_s: float = 30.0
    ) -> InceptionClient:
        """A client of a server of its own: it is started with the model folders in `repository`, on this machine, and
        stopped by `close`.

        `models` names the folders to serve, None means all. Needs the package's extra `serving`. Raises
        `ServerUnavailable` with the reason when the server does not start.
        """
        from client.local import started

        server = started(repository, models)
        try:
            client = cls(server.grpc_url, token=server.token, timeout_s=timeout_s)
        except BaseException:
            server.stop()
            raise
        client._closing = (*client._closing, server.stop)
        return client

    def classify(
        self,
        image: ImageLike,
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
    ) -> Classification:
        """The `top_k` most probable classes of one image, or all where the model has fewer.

        `image` is a path, the bytes of a JPEG, PNG or WEBP file, a binary file object, a PIL image, or a uint8 RGB
        array [height, width, 3] or torch tensor [3, height, width]; the model says how it is resized and cropped.
        `model` is "InceptionV3", "inception_v3" or "inception_v3_fp16", and may be left out where one architecture is
        served; `precision` None means fp16 where served, else fp32, and the result says which it was. `probabilities`
        adds those of all classes to the result.
        """
        wanted = Wanted(model, precision, top_k, probabilities)
        return self._run(lambda call: self._core.classify(image, wanted, call), timeout_s)

    @overload
    def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Classification]: ...

    @overload
    def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: Literal["return"],
    ) -> list[Outcome]: ...

    def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: OnError = "raise",
    ) -> list[Classification] | list[Outcome]:
        """The same for several images, in their order, within one deadline; they travel in batches the model takes.

        Every image is tried. Where some fail, "raise" raises `SomeFailed`, which has the answers of the others, and
        "return" puts each error into its image's place; an error knows its image's `index`. What would meet every
        image (a wrong model, a closed client) is raised as it is.
        """
        is_raised = checked_on_error(on_error)
        check_several(images)
        wanted, listed = Wanted(model, precision, top_k, probabilities), list(images)
        if not listed:
            return []
        call = self._core.call(timeout_s)
        outcomes = list(self._stream(listed, wanted, None, None, lambda: call))
        if is_raised and any(isinstance(outcome, InceptionError) for outcome in outcomes):
            raise SomeFailed(outcomes)
        return outcomes

    @overload
    def classify_many(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> Iterator[Classification]: ...

    @overload
    def classify_many(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: Literal["return"],
    ) -> Iterator[Outcome]: ...

    def classify_many(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[Classification] | Iterator[Outcome]:
        """The answers for any number of images, in their order, as they come: a generator of any length will do.

        At most `window` images are under way, None for a batch for each core and two more; no more are taken from
        `images` until answers are. They are decoded in
        threads while others are on the wire, and travel in batches of `batch_size`, None for what the model takes at
        most. Each batch has the client's time-out for itself. While the next image is waited for, no answer is handed
        on: a camera is better served by `classify`. An array must not be changed until its answer is there: a source
        that fills one buffer again and again has to yield copies.

        At the first failing image "raise" raises its error, after the answers of all before it; "return" yields the
        error in its image's place and goes on. An error knows its image's `index`. What would meet every image is
        raised in either case.
        """
        is_raised = checked_on_error(on_error)
        check_sizes(window, batch_size)
        check_several(images)
        wanted = Wanted(model, precision, top_k, probabilities)
        outcomes = self._stream(images, wanted, window, batch_size, self._core.call)
        return _raising(outcomes) if is_raised else outcomes

    def models(self) -> tuple[ModelContract, ...]:
        """Every model of this project that the server serves, as it describes itself, sorted by served name.

        Raises `NotAllowed` where the server restricts listing, and the token is missing or wrong.
        """
        return self._run(self._core.models)

    def server_statistics(self) -> tuple[ModelStatistics, ...]:
        """What each model of the server has done since it was loaded: requests, batches, and where the time went.

        Raises `NotAllowed` where the server restricts statistics, and the token is missing or wrong.
        """
        return self._run(self._core.statistics)

    def health(self) -> tuple[ModelHealth, ...]:
        """One real inference on every model that is to be served; the server's own word is not asked for.

        Triton goes on calling a model ready after the process behind it has died. The list of models may take
        `timeout_s` and each model may take it again, one after the other, so that one that hangs does not make the
        next look ill: with n models the call ends within (n + 1) * `timeout_s`.
        """
        return self._run(lambda _call: self._core.health())

    def wait_until_ready(self, timeout_s: float) -> tuple[ModelHealth, ...]:
        """Wait until at least one model is served and every one answered a real inference.

        Raises `DeadlineExceeded` with the last obstacle after `timeout_s` seconds, however many models there are (no
        model is given more than the client's own `timeout_s`), and at once what waiting cannot cure: a damaged model,
        or a wrong token where the server restricts inference.
        """
        return self._run(lambda _call: self._core.ready(timeout_s))

    @contextmanager
    def shared_memory(self) -> Iterator[InceptionClient]:
        """The same client, whose images the server reads from memory that both share: for a server on this machine.

            with client.shared_memory() as fast:
                for result in fast.classify_many(images): ...

        The memory grows with what is under way and is given back when the block ends; what a process that died left of
        its own is removed first. It belongs to this process: one forked from it opens its own. Raises `NotAllowed`
        where the server restricts shared memory and the token is missing or wrong, and `InvalidRequest` where the
        server cannot see this machine's memory.
        """
        arena = Arena(self._core.address)
        fast = type(self).__new__(type(self))
        fast._begin(self._transport, self._core.with_buffers(arena))
        try:
            self._run(arena.open)
            yield fast
        finally:
            self._run(arena.close)

    def close(self) -> None:
        """Close the connection; closing twice is harmless, any other use afterwards raises `ClientClosed`."""
        to_close, self._closing = self._closing, ()
        for close in to_close if self._pid == os.getpid() else to_close[:1]:  # the rest is the parent's
            close()

    def __enter__(self) -> InceptionClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<InceptionClient of {self._core.address}>"

    def _run(self, steps_of: Callable[[Call], Steps[T]], timeout_s: float | None = None) -> T:
        return run(steps_of(self._core.call(timeout_s)), self._transport)

    def _stream(
        self,
        images: Iterable[ImageLike],
        wanted: Wanted,
        window: int | None,
        batch_size: int | None,
        new_call: Callable[[], Call],
    ) -> Generator[Outcome, None, None]:
        """The outcomes of `images`; each group of them is a call of its own, unless `new_call` gives the same one."""

        def answer(group: Sequence[ImageLike], first: int) -> list[Outcome]:
            outcomes = run(self._core.outcomes(group, wanted, new_call()), self._transport)
            return [with_index(outcome, first + place) for place, outcome in enumerate(outcomes)]

        largest = run(self._core.max_batch_size(wanted, new_call()), self._transport)
        yield from stream(images, window_of(window, batch_size, largest), answer)


def _raising(outcomes: Generator[Outcome, None, None]) -> Iterator[Classification]:
    with closing(outcomes):  # an error that is kept must not keep the stream
        for outcome in outcomes:
            if isinstance(outcome, InceptionError):
                raise outcome
            yield outcome
