"""What a caller gets back. Standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from client.errors import InceptionError


@dataclass(frozen=True)
class Prediction:
    """One class: its index in the model's labels, its label, and its probability."""

    index: int
    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.score:.4f}  {self.index:>4}  {self.label}"


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first, and what exactly answered.

    `model` is the architecture ("InceptionV3"), `served_name` what the server calls it, `precision`, `version` and
    `release` those of the files that answered, `emulated` what the server only imitates, or None. Times are
    milliseconds on the client: `preprocess_ms` decoding, resizing and cropping, `inference_ms` from request to reply,
    `total_ms` the whole call.
    """

    predictions: tuple[Prediction, ...]
    model: str
    served_name: str
    precision: str
    version: str
    release: str
    emulated: str | None
    preprocess_ms: float
    inference_ms: float
    total_ms: float

    @property
    def best(self) -> Prediction:
        """The most probable class."""
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries and lists, ready for JSON."""
        return dataclasses.asdict(self) | {"predictions": [dataclasses.asdict(each) for each in self.predictions]}

    def __repr__(self) -> str:
        shown = "; ".join(f"{each.score:.4f} {each.label}" for each in self.predictions)
        return f"<Classification by {self.served_name} release {self.release}: {shown}>"


@dataclass(frozen=True)
class ModelHealth:
    """Whether one model answered one real inference: in `latency_ms`, or not, for the reason in `error`."""

    served_name: str
    latency_ms: float | None
    error: InceptionError | None

    @property
    def is_healthy(self) -> bool:
        """Whether the model answered."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "served_name": self.served_name,
            "is_healthy": self.is_healthy,
            "latency_ms": self.latency_ms,
            "error": None if self.error is None else str(self.error),
        }
