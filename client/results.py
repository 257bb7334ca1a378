"""What a caller gets back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from client.errors import InceptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """One class: its index in the model's labels, its label, and its probability."""

    index: int
    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.score:.4f}  {self.index:>4}  {self.label}"


@dataclass(frozen=True)
class Timings:
    """Milliseconds on the client: `preprocess_ms` decoding, resizing and cropping this image, `inference_ms` from the
    request that carried it to the reply, pauses before another try included, `total_ms` the whole call.

    Images that travelled in one request share its `inference_ms`.
    """

    preprocess_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first, and what exactly answered.

    `model` is the architecture ("InceptionV3"), `served_name` what the server calls it, `precision`, `version` and
    `release` those of the files that answered, `emulated` what the server only imitates, or None. `probabilities`,
    float32 [classes] in the order of the model's labels, is there where it was asked for.
    """

    predictions: tuple[Prediction, ...]
    model: str
    served_name: str
    precision: str
    version: str
    release: str
    emulated: str | None
    timings: Timings
    probabilities: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> Prediction:
        """The most probable class."""
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries and lists, ready for JSON; `probabilities` where they were asked for."""
        content = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "probabilities"
        }
        content["predictions"] = [dataclasses.asdict(each) for each in self.predictions]
        content["timings"] = dataclasses.asdict(self.timings)
        if self.probabilities is not None:
            content["probabilities"] = self.probabilities.tolist()
        return content

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


@dataclass(frozen=True)
class Phase:
    """One part of the work on a model's requests: how often it was done, and the milliseconds of all times together."""

    count: int
    sum_ms: float

    @property
    def mean_ms(self) -> float:
        """Milliseconds each time; 0 where it was never done."""
        return self.sum_ms / self.count if self.count else 0.0


@dataclass(frozen=True)
class ModelStatistics:
    """What one model has done since it was loaded, as Triton counts it.

    `images` in `executions` batches; per request, `success` and `failure` are the whole of it, `queue` the wait for a
    place in a batch, `compute_input`, `compute_infer` and `compute_output` the three parts of the execution.
    """

    served_name: str
    version: str
    images: int
    executions: int
    success: Phase
    failure: Phase
    queue: Phase
    compute_input: Phase
    compute_infer: Phase
    compute_output: Phase

    @property
    def mean_batch_size(self) -> float:
        """Images per execution; 0 where there was none."""
        return self.images / self.executions if self.executions else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON, with the means."""
        content = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        for name, value in content.items():
            if isinstance(value, Phase):
                content[name] = dataclasses.asdict(value) | {"mean_ms": value.mean_ms}
        return content | {"mean_batch_size": self.mean_batch_size}
