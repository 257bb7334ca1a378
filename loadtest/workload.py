"""What a load test sends: a seeded mix of real JPEGs to weighted models. And whether the answers stay the same."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client import Classification, InvalidImage, ModelContract
from client.images import rgb_from_image
from client.names import PRECISIONS, served_name, slug_and_precision
from loadtest.errors import MeasurementFailed, UsageError

EXAMPLE_PHOTOGRAPHS = Path(__file__).parent.parent / "examples" / "photos"
JPEG_SUFFIXES = (".jpg", ".jpeg")
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Photograph:
    """One JPEG file: its name and its bytes."""

    name: str
    jpeg: bytes = field(repr=False)


def photographs_in(directory: Path) -> tuple[Photograph, ...]:
    """Every JPEG of a directory, by name, each decoded once to prove that it can be.

    Raises `UsageError` where there is none or one is damaged.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix.lower() in JPEG_SUFFIXES)
        photographs = tuple(Photograph(path.name, path.read_bytes()) for path in paths)
    except OSError as error:
        raise UsageError(f"{directory} cannot be read ({error.strerror}); expected a directory of JPEGs") from error
    if not photographs:
        raise UsageError(f"{directory} holds no JPEG; expected files that end in {' or '.join(JPEG_SUFFIXES)}")
    for photograph in photographs:
        try:
            rgb_from_image(photograph.jpeg)
        except InvalidImage as error:
            raise UsageError(f"{directory / photograph.name} cannot be classified: {error}") from error
    return photographs


@dataclass(frozen=True)
class WantedModel:
    """A model by any of its names, and how often it is asked for, relative to the others."""

    name: str
    weight: float


def wanted_model(text: str) -> WantedModel:
    """The model of `NAME` or `NAME=WEIGHT`; `UsageError` for any other text."""
    name, _, weight_text = text.partition("=")
    try:
        weight = float(weight_text) if "=" in text else 1.0
    except ValueError:
        weight = math.nan
    if not name.strip() or not (0 < weight < math.inf):
        raise UsageError(f"{text!r} is not a model and its weight; expected NAME or NAME=WEIGHT, a number above 0")
    return WantedModel(name.strip(), weight)


@dataclass(frozen=True)
class WeightedModel:
    """A served model and how often it is asked for, relative to the others."""

    contract: ModelContract
    weight: float

    @property
    def reply_bytes(self) -> int:
        """What the server sends for one image: a float32 a class; names and framing are not counted."""
        return FLOAT32_BYTES * len(self.contract.labels)

    def described(self) -> str:
        """Name, weight and release in one line, and what the server only imitates."""
        emulated = f", emulated: {self.contract.emulated}" if self.contract.emulated else ""
        return f"{self.contract.served_name}: weight {self.weight:g}, release {self.contract.release}{emulated}"


def weighted_models(served: Sequence[ModelContract], wanted: Sequence[WantedModel]) -> tuple[WeightedModel, ...]:
    """The models wanted, as served; every served one, equally often, where none is named.

    A name without a precision means fp16 where that is served, else fp32, as it does to the client. Raises `UsageError`
    with a list of what is served where one is not, or where two names mean the same model.
    """
    by_name = {contract.served_name: contract for contract in served}
    listed = f"served are: {', '.join(sorted(by_name))}" if by_name else "no model of this project is served there"
    if not wanted:
        if not by_name:
            raise UsageError(f"there is nothing to measure: {listed}")
        return tuple(WeightedModel(contract, 1.0) for contract in by_name.values())
    chosen: dict[str, WeightedModel] = {}
    for each in wanted:
        name = next((name for name in _possible_names(each.name) if name in by_name), None)
        if name is None:
            raise UsageError(f"model {each.name!r} is not served; {listed}")
        if name in chosen:
            raise UsageError(f"model {name!r} is asked for twice; expected each model once, with its whole weight")
        chosen[name] = WeightedModel(by_name[name], each.weight)
    return tuple(chosen.values())


def _possible_names(name: str) -> tuple[str, ...]:
    parsed = slug_and_precision(name)
    if parsed is None:
        return ()
    slug, precision = parsed
    return tuple(served_name(slug, each) for each in ((precision,) if precision else PRECISIONS))


def requests(
    models: Sequence[WeightedModel], photographs: Sequence[Photograph], seed: str
) -> Iterator[tuple[WeightedModel, Photograph]]:
    """An endless sequence of requests, the same for the same models, photographs and seed on every machine."""
    chance = random.Random(seed)
    weights = [model.weight for model in models]
    while True:
        yield chance.choices(models, weights)[0], chance.choice(photographs)


class FirstAnswers:
    """The first top-1 of every photograph, model and release: what every later answer must be.

    It cannot tell that the first answer was right, only that the server does not contradict itself under load.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], int] = {}

    def check(self, photograph: Photograph, answer: Classification) -> None:
        """Remember a first answer; `MeasurementFailed` where a later one has another top-1."""
        key = (photograph.name, answer.served_name, answer.release)
        first = self._first.setdefault(key, answer.best.index)
        if answer.best.index != first:
            # Without the new class: locust counts failures by their text.
            raise MeasurementFailed(
                f"{answer.served_name} release {answer.release} answered {photograph.name} with another class than "
                f"the {first} of its first answer"
            )
