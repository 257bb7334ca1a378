"""Many images at once: order, bounds, and what becomes of the others when one fails. For both clients alike."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from client import AsyncInceptionClient, Classification, InceptionClient, RetryPolicy, classification, served
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    ServerUnavailable,
    SomeFailed,
    UnknownModel,
    UnreadableImage,
)
from client.operations import Infer
from client.testing import AsyncFakeServer, FakeModel, FakeServer

CLASSES = 256
Server = Callable[..., FakeServer]


def mean_pixel(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The class of an image is the rounded mean of its pixels: the answer tells which image it is of."""
    probabilities = np.zeros((len(images), CLASSES), dtype=np.float32)
    for row, image in zip(probabilities, images, strict=True):
        row[round(float(image.mean()))] = 1.0
    return probabilities


def picture(value: int) -> npt.NDArray[np.uint8]:
    return np.full((32, 32, 3), value, dtype=np.uint8)


@pytest.fixture
def server() -> FakeServer:
    labels = [f"grey {value}" for value in range(CLASSES)]
    return FakeServer(FakeModel("InceptionV3", labels=labels, answer=mean_pixel, input_size=24, resize_short=28))


class Waiting:
    """The sync client, and how a test calls it."""

    def __init__(self, server: FakeServer) -> None:
        self.client = InceptionClient.over(server, timeout_s=20)

    def batch(self, images: Iterable[Any], **options: Any) -> list[Any]:
        return self.client.classify_batch(images, **options)

    def many(self, images: Iterable[Any], **options: Any) -> list[Any]:
        return list(self.client.classify_many(images, **options))


class Awaiting:
    """The async client, and how a test calls it."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def batch(self, images: Iterable[Any], **options: Any) -> list[Any]:
        async def call() -> list[Any]:
            client = AsyncInceptionClient.over(AsyncFakeServer(self.server), timeout_s=20)
            return await client.classify_batch(images, **options)

        return asyncio.run(call())

    def many(self, images: Any, **options: Any) -> list[Any]:
        async def call() -> list[Any]:
            client = AsyncInceptionClient.over(AsyncFakeServer(self.server), timeout_s=20)
            return [each async for each in client.classify_many(images, **options)]

        return asyncio.run(call())


@pytest.fixture(params=[Waiting, Awaiting], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest, server: FakeServer) -> Any:
    return request.param(server)


def shown(outcomes: Iterable[Any]) -> list[Any]:
    """The class of each answer, the type of each error."""
    return [each.best.index if isinstance(each, Classification) else type(each) for each in outcomes]


def sizes(server: FakeServer) -> list[int]:
    """How many images each request carried."""
    return [len(operation.batch) for operation in server.operations if isinstance(operation, Infer)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_a_batch_is_answered_in_its_order_in_requests_the_model_takes(
    caller: Any, server: FakeServer, count: int
) -> None:
    """Full requests, and one for the rest."""
    assert shown(caller.batch(map(picture, range(count)))) == list(range(count))
    assert sorted(sizes(server), reverse=True) == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


@pytest.mark.parametrize("count", [0, 1, 8, 200])
def test_a_stream_is_answered_in_its_order(caller: Any, server: FakeServer, count: int) -> None:
    """Whatever finishes first."""
    assert shown(caller.many(map(picture, range(count)))) == list(range(count))
    assert max(sizes(server), default=0) <= 8


def test_a_smaller_batch_may_be_asked_for_and_a_larger_one_not(caller: Any, server: FakeServer) -> None:
    """The model's maximum is the server's word."""
    caller.many(map(picture, range(12)), batch_size=3)
    assert sizes(server) == [3] * 4
    server.operations.clear()
    caller.many(map(picture, range(16)), batch_size=100)
    assert sizes(server) == [8] * 2


def test_a_window_bounds_what_is_taken_from_the_source(server: FakeServer) -> None:
    """A slow consumer slows the source: never more than the window is pulled and not yet handed on."""
    pulled = 0

    def source() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal pulled
        for value in range(200):
            pulled += 1
            yield picture(value)

    with InceptionClient.over(server) as client:
        handed_on = 0
        for _ in client.classify_many(source(), window=16):
            handed_on += 1
            assert pulled - handed_on <= 16
    assert handed_on == 200


def test_a_window_bounds_an_asynchronous_source_too(server: FakeServer) -> None:
    """The same on an event loop, from an asynchronous generator."""
    pulled = 0

    async def source() -> AsyncIterator[npt.NDArray[np.uint8]]:
        nonlocal pulled
        for value in range(100):
            pulled += 1
            await asyncio.sleep(0)
            yield picture(value)

    async def call() -> int:
        handed_on = 0
        async with AsyncInceptionClient.over(AsyncFakeServer(server)) as client:
            async for each in client.classify_many(source(), window=16):
                assert each.best.index == handed_on
                handed_on += 1
                assert pulled - handed_on <= 16
        return handed_on

    assert asyncio.run(call()) == 100


def test_a_source_without_an_end_is_answered_as_it_goes(server: FakeServer) -> None:
    """Breaking off leaves no thread behind."""

    def source() -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            yield picture(7)

    before = threading.active_count()
    with InceptionClient.over(server) as client:
        answers = client.classify_many(source(), window=16)
        assert [next(answers).best.index for _ in range(50)] == [7] * 50
        answers.close()
    ended = threading.Event()
    for _ in range(200):
        if threading.active_count() <= before:
            break
        ended.wait(0.05)
    assert threading.active_count() <= before


def test_one_bad_image_is_named_and_the_others_are_answered(caller: Any) -> None:
    """In a batch: by its index, and a path by its name too; nothing that was answered is lost."""
    images = [picture(0), b"<html>", picture(2), "no/such/cat.jpg", picture(4)]
    with pytest.raises(SomeFailed, match=r"2 of 5 images failed.*image 1: the bytes given") as caught:
        caller.batch(images)
    assert shown(caught.value.results) == [0, InvalidImage, 2, UnreadableImage, 4]
    assert [each.index for each in caught.value.results if isinstance(each, InceptionError)] == [1, 3]
    assert "image 3: no/such/cat.jpg cannot be opened" in str(caught.value.results[3])
    assert caught.value.exit_code == 2


def test_errors_may_be_returned_in_their_images_places(caller: Any) -> None:
    """For a run that goes on whatever comes."""
    images = [picture(0), b"<html>", picture(2)]
    for outcomes in (caller.batch(images, on_error="return"), caller.many(images, on_error="return")):
        assert shown(outcomes) == [0, InvalidImage, 2]
        assert outcomes[1].index == 1


def test_a_stream_raises_at_the_first_bad_image_after_all_before_it(server: FakeServer) -> None:
    """The default; the answers before it were handed on."""
    images = [picture(value) for value in range(30)]
    images[19] = b"<html>"
    seen: list[int] = []
    with InceptionClient.over(server) as client, pytest.raises(InvalidImage, match="image 19") as caught:
        seen.extend(each.best.index for each in client.classify_many(images))
    assert (seen, caught.value.index) == (list(range(19)), 19)


def test_a_failed_request_is_the_error_of_its_images_alone(caller: Any, server: FakeServer) -> None:
    """The images of another request are answered; a model's own failure is not tried again."""
    with pytest.raises(SomeFailed):
        caller.batch([b"", picture(0)])  # the contract is read, so that the failure below meets a request
    server.operations.clear()

    def fail_for_ten(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if round(float(images[0].mean())) == 8:
            raise InferenceFailed("boom")
        return mean_pixel(images)

    server.models["inception_v3_fp32"].answer = fail_for_ten
    outcomes = caller.batch(map(picture, range(24)), on_error="return")
    assert shown(outcomes) == [*range(8), *[InferenceFailed] * 8, *range(16, 24)]
    assert [each.index for each in outcomes[8:16]] == list(range(8, 16))
    assert len(sizes(server)) == 3


def test_what_would_meet_every_image_is_raised(caller: Any) -> None:
    """A wrong model, a wrong option: no use in going on, whatever was said of errors."""
    for call in (caller.batch, caller.many):
        with pytest.raises(UnknownModel):
            call([picture(0)] * 20, model="Xception71", on_error="return")
        with pytest.raises(InvalidRequest, match="top_k"):
            call([picture(0)] * 20, top_k=0, on_error="return")


@pytest.mark.parametrize(
    "options",
    [{"window": 0}, {"window": 2.5}, {"batch_size": 0}, {"batch_size": True}, {"on_error": "ignore"}],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_before_anything_is_taken(caller: Any, options: dict[str, Any]) -> None:
    """The source is not touched."""
    touched = []

    def source() -> Iterator[Any]:
        touched.append(True)
        yield picture(0)

    with pytest.raises(InvalidRequest):
        caller.many(source(), **options)
    assert touched == []


def test_an_error_of_the_source_is_raised_after_what_it_gave(server: FakeServer) -> None:
    """The user's own exception, as it is; every image before it is answered."""

    def source() -> Iterator[npt.NDArray[np.uint8]]:
        for value in range(11):
            yield picture(value)
        raise RuntimeError("the camera is gone")

    seen: list[int] = []
    with InceptionClient.over(server) as client, pytest.raises(RuntimeError, match="the camera is gone"):
        seen.extend(each.best.index for each in client.classify_many(source()))
    assert seen == list(range(11))


def test_an_error_of_an_asynchronous_source_is_raised_after_what_it_gave(server: FakeServer) -> None:
    """The same on an event loop."""

    async def source() -> AsyncIterator[npt.NDArray[np.uint8]]:
        for value in range(11):
            yield picture(value)
        raise RuntimeError("the camera is gone")

    seen: list[int] = []

    async def call() -> None:
        async with AsyncInceptionClient.over(AsyncFakeServer(server)) as client:
            async for each in client.classify_many(source()):
                seen.append(each.best.index)

    with pytest.raises(RuntimeError, match="the camera is gone"):
        asyncio.run(call())
    assert seen == list(range(11))


def test_a_batch_has_one_deadline_and_a_stream_one_for_each_request(server: FakeServer) -> None:
    """What each request is told to end within."""
    with InceptionClient.over(server, timeout_s=20) as client:
        client.classify_batch(map(picture, range(64)), timeout_s=5)
        assert max(server.timeouts_s) <= 5
        server.timeouts_s.clear()
        list(client.classify_many(map(picture, range(64))))
        assert 5 < max(server.timeouts_s) <= 20


def test_a_passed_deadline_ends_a_batch_with_the_rest_unsent(server: FakeServer) -> None:
    """Nothing more is sent when it has passed."""
    model = server.models["inception_v3_fp32"]

    def slow(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        threading.Event().wait(0.3)
        return mean_pixel(images)

    model.answer = slow
    with InceptionClient.over(server) as client:
        outcomes = client.classify_batch([picture(0)] * 200, timeout_s=0.2, on_error="return")
    assert len(outcomes) == 200
    assert {type(each) for each in outcomes} <= {Classification, DeadlineExceeded}
    assert sum(isinstance(each, DeadlineExceeded) for each in outcomes) >= 100
    assert len(sizes(server)) <= 9


def test_probabilities_are_there_when_asked_for(caller: Any) -> None:
    """All classes, float32, and none otherwise."""
    (answer,) = caller.batch([picture(9)], probabilities=True)
    assert (answer.probabilities.shape, answer.probabilities.dtype) == ((CLASSES,), np.float32)
    assert answer.probabilities.argmax() == 9
    assert caller.batch([picture(9)])[0].probabilities is None


def test_one_answer_that_cannot_be_right_spoils_no_other(caller: Any, server: FakeServer) -> None:
    """FP16 may overflow on one image of eight."""

    def overflow_for_three(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        probabilities = mean_pixel(images)
        probabilities[[round(float(image.mean())) == 3 for image in images]] = np.nan
        return probabilities

    server.models["inception_v3_fp32"].answer = overflow_for_three
    outcomes = caller.batch(map(picture, range(8)), on_error="return")
    assert shown(outcomes) == [0, 1, 2, BadResponse, 4, 5, 6, 7]
    assert "image 3: inception_v3_fp32 version 1 answered NaN" in str(outcomes[3])


def test_a_server_that_is_away_for_a_while_does_not_end_a_run_that_goes_on(server: FakeServer) -> None:
    """What comes back may be another release, so the contract is read again; that, too, may find nobody there."""
    with InceptionClient.over(server, retries=RetryPolicy(max_retries=0)) as client:
        client.classify(picture(0))
        server.fail_next(*[ServerUnavailable("away")] * 3)
        outcomes = client.classify_many(map(picture, range(80)), on_error="return", window=8)
        seen = [next(outcomes)]
        seen += list(outcomes)
    assert shown(seen) == [*[ServerUnavailable] * 24, *range(24, 80)]


def test_a_lost_connection_is_tried_again_within_the_stream(caller: Any, server: FakeServer) -> None:
    """No image is lost and none is answered twice."""
    caller.batch([picture(0)])
    server.fail_next(ServerUnavailable("reset"))
    assert shown(caller.many(map(picture, range(20)))) == list(range(20))


def test_a_stream_over_a_list_of_thousands_keeps_nothing(server: FakeServer) -> None:
    """Answers that were handed on are not held."""
    with InceptionClient.over(server) as client:
        count = 0
        for _ in client.classify_many(picture(count % 256) for count in range(2000)):
            count += 1
            if count % 500 == 0:
                gc.collect()
                held = sum(type(each) is Classification for each in gc.get_objects())  # `isinstance` wakes lazy ones
                assert held <= 2 * 64
    assert count == 2000


# ---- asyncio


def test_many_tasks_share_one_async_client(server: FakeServer) -> None:
    """A thousand at once, each with its own answer."""

    async def call() -> list[int]:
        async with AsyncInceptionClient.over(AsyncFakeServer(server)) as client:
            answers = await asyncio.gather(*(client.classify(picture(value % 256)) for value in range(1000)))
        return [each.best.index for each in answers]

    assert asyncio.run(call()) == [value % 256 for value in range(1000)]


def test_an_async_client_belongs_to_one_loop(server: FakeServer) -> None:
    """From another loop it says so, instead of hanging there."""
    client = AsyncInceptionClient.over(AsyncFakeServer(server))
    asyncio.run(client.classify(picture(0)))
    with pytest.raises(InvalidRequest, match="another event loop"):
        asyncio.run(client.classify(picture(0)))


def test_the_loop_goes_on_while_images_are_decoded(server: FakeServer) -> None:
    """Decoding runs in threads; an array needs none."""
    threads: set[int] = set()

    class Bytes:
        def read(self, size: int) -> bytes:
            threads.add(threading.get_ident())
            raise OSError("no bytes")

    async def call() -> int:
        async with AsyncInceptionClient.over(AsyncFakeServer(server)) as client:
            with pytest.raises(InvalidImage):
                await client.classify(Bytes())
        return threading.get_ident()

    assert asyncio.run(call()) not in threads
    assert threads


def test_a_cancelled_call_ends_at_once_and_the_next_is_answered(server: FakeServer) -> None:
    """The cancellation is passed on, not turned into an error of ours."""

    class Stuck(AsyncFakeServer):
        is_stuck = True

        async def send(self, operation: Any, timeout_s: float) -> Any:
            if isinstance(operation, Infer) and self.is_stuck:
                await asyncio.Event().wait()
            return await super().send(operation, timeout_s)

    async def call() -> int:
        stuck = Stuck(server)
        client = AsyncInceptionClient.over(stuck)
        task = asyncio.ensure_future(client.classify(picture(0)))
        while not any(operation for operation in server.operations):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stuck.is_stuck = False
        return (await client.classify(picture(5))).best.index

    assert asyncio.run(call()) == 5


def test_a_cancelled_call_does_not_write_into_anothers_pixels(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread goes on cropping; the room it writes into is given to nobody until it has ended."""
    crop = classification.crop_into

    def slow_crop(out: Any, rgb: Any, preprocessing: Any) -> None:
        if rgb[0, 0, 0] == 255:
            threading.Event().wait(0.003)
        crop(out, rgb, preprocessing)

    monkeypatch.setattr(classification, "crop_into", slow_crop)

    async def call() -> list[Any]:
        outcomes: list[Any] = []
        client = AsyncInceptionClient.over(AsyncFakeServer(server))
        await client.classify(picture(0))
        for _ in range(20):
            task = asyncio.ensure_future(client.classify_batch([picture(255)] * 8))
            await asyncio.sleep(0.008)
            task.cancel()
            outcomes += await client.classify_batch([picture(7)] * 8)
        return outcomes

    assert set(shown(asyncio.run(call()))) == {7}


@pytest.mark.parametrize("kind", ["path", "bytes", "batch"])
def test_a_closed_async_client_says_so_whatever_it_is_given(server: FakeServer, kind: str) -> None:
    """Never the thread pool's own words."""

    async def call() -> None:
        client = AsyncInceptionClient.over(AsyncFakeServer(server))
        await client.classify(picture(0))
        await client.close()
        if kind == "batch":
            await client.classify_batch([picture(0)] * 9)
        else:
            await client.classify("cat.jpg" if kind == "path" else b"\xff\xd8\xff")

    with pytest.raises(ClientClosed):
        asyncio.run(call())


def test_closing_an_async_client_ends_calls_under_way_with_its_own_error(server: FakeServer) -> None:
    """Not with a cancellation that nobody asked for, which a task group would pass over."""

    async def call() -> set[type]:
        client = AsyncInceptionClient.over(AsyncFakeServer(server))
        tasks = [asyncio.ensure_future(client.classify(b"\xff\xd8\xff" + bytes(50_000))) for _ in range(200)]
        await asyncio.sleep(0)
        await client.close()
        return {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)}

    assert asyncio.run(call()) <= {ClientClosed, InvalidImage}


@pytest.mark.parametrize("images", ["cat.jpg", b"bytes", picture(0), None, 7], ids=lambda each: type(each).__name__)
def test_one_image_is_not_taken_for_many(caller: Any, images: Any) -> None:
    """A path is a sequence of letters, and an array one of rows."""
    for call in (caller.batch, caller.many):
        with pytest.raises(InvalidRequest, match="expected several, such as a list"):
            call(images)


def test_an_error_that_is_kept_does_not_keep_the_stream(server: FakeServer) -> None:
    """Its traceback holds the frames; the threads must end all the same."""
    before = threading.active_count()
    with InceptionClient.over(server) as client:
        try:
            list(client.classify_many([picture(0), b"<html>", *[picture(1)] * 100]))
        except InvalidImage as error:
            kept = error
        for _ in range(200):
            if threading.active_count() <= before:
                break
            threading.Event().wait(0.05)
        assert threading.active_count() <= before
    assert kept.index == 1


def test_a_batch_that_takes_too_long_to_decode_ends_in_time(server: FakeServer) -> None:
    """What is left undecoded at the deadline is not decoded to be thrown away."""
    read = []

    class SlowFile:
        def read(self, size: int) -> bytes:
            read.append(size)
            threading.Event().wait(0.1)
            return b""

    with InceptionClient.over(server) as client:
        outcomes = client.classify_batch([SlowFile() for _ in range(64)], timeout_s=0.3, on_error="return")
    assert {type(each) for each in outcomes} == {InvalidImage, DeadlineExceeded}
    assert len(read) < 40


def test_some_failed_goes_from_process_to_process() -> None:
    """With its results."""
    failed = SomeFailed([InvalidImage("bad"), InferenceFailed("worse")])
    again = pickle.loads(pickle.dumps(failed))
    assert [str(each) for each in again.results] == ["bad", "worse"]
    assert str(again) == str(failed)


def test_other_models_under_the_same_version_are_noticed(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart no reply tells: descriptions are read again when they are old."""
    with InceptionClient.over(server) as client:
        assert client.classify(picture(5)).best.label == "grey 5"
        model = server.models["inception_v3_fp32"]
        model.labels, model.release = [f"other {value}" for value in range(CLASSES)], "other"
        assert client.classify(picture(5)).release == "fake"
        monkeypatch.setattr(served, "MAX_CONTRACT_AGE_S", 0.0)
        client._core.served.forget()
        assert (client.classify(picture(5)).best.label, client.classify(picture(5)).release) == ("other 5", "other")


def test_an_answer_that_does_not_fit_makes_the_description_be_read_again(caller: Any, server: FakeServer) -> None:
    """Other classes, or smaller batches, under the same version: the images are answered all the same."""
    caller.batch([picture(1)])
    model = server.models["inception_v3_fp32"]
    model.labels = [f"grey {value}" for value in range(CLASSES + 1)]
    model.answer = lambda images: np.pad(mean_pixel(images), ((0, 0), (0, 1)))
    assert shown(caller.batch(map(picture, range(20)))) == list(range(20))
