"""Case 9 against the real server: one bad image among many gets its own error, and the others their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client import BadResponse, InferenceFailed, InvalidImage, SomeFailed

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
RAISES, SUM_OF_TWO = 201, 207


def test_a_bad_image_of_a_batch_has_its_own_error(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """Twenty images, two bad: eighteen answers in their places; the errors know their index and name it."""
    images: list[Any] = [solid(value) for value in range(20)]
    images[3], images[17] = b"no picture", np.zeros((4, 4, 3), np.uint8)
    outcomes = connect(obedient).classify_batch(images, MODEL, on_error="return")
    for place, outcome in enumerate(outcomes):
        if place in {3, 17}:
            assert type(outcome) is InvalidImage
            assert outcome.index == place
            assert f"image {place}:" in str(outcome)
        else:
            assert outcome.best.index == place


def test_a_batch_with_a_bad_image_raises_with_the_answers(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """The documented rule of "raise": every image is tried, and nothing that was answered is lost."""
    caller = connect(obedient)
    with pytest.raises(SomeFailed, match=r"1 of 3 images failed.*image 1:") as raised:
        caller.classify_batch([solid(4), b"no picture", solid(6)], MODEL)
    first, second, third = raised.value.results
    assert (first.best.index, type(second), third.best.index) == (4, InvalidImage, 6)


@pytest.mark.parametrize(("command", "kind"), [(RAISES, InferenceFailed), (SUM_OF_TWO, BadResponse)])
def test_a_request_that_fails_costs_the_images_in_it_and_no_others(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], command: int, kind: type[Exception]
) -> None:
    """Eight travel together: they share the error of their request. The other requests are answered."""
    images = [solid(command)] * 8 + [solid(value) for value in range(8)]
    seen: list[Any] = []
    caller = connect(obedient)
    stream = caller.start_many(images, seen.append, model=MODEL, batch_size=8, window=8, on_error="return")
    stream.result(30)
    assert [type(outcome) for outcome in seen[:8]] == [kind] * 8
    assert [outcome.index for outcome in seen[:8]] == list(range(8))
    assert [outcome.best.index for outcome in seen[8:]] == list(range(8))


def test_a_stream_that_raises_does_so_after_the_answers_before_it(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """`classify_many`, "raise": ten answers, then the error of the eleventh; the client is as good as before."""
    images = [*(solid(value) for value in range(10)), b"no picture", *(solid(value) for value in range(11, 40))]
    seen: list[int] = []
    caller = connect(obedient)
    stream = caller.start_many(images, lambda result: seen.append(result.best.index), model=MODEL, batch_size=2)
    error = stream.exception(30)
    assert type(error) is InvalidImage
    assert error.index == 10
    assert seen == list(range(10))
    assert caller.classify(solid(5), MODEL).best.index == 5
