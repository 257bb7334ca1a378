"""Where the weights of a build come from, and what identifies them before they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.catalog import ModelSpec
from builder.errors import UsageError
from builder.hashing import sha256_of_file, sha256_of_text

if TYPE_CHECKING:
    from builder.architectures import Classifier

PRETRAINED, SEEDED = "pretrained", "seeded"


@dataclass(frozen=True)
class WeightSource:
    """`sha256` is the file's, or for seeded weights that of the recipe's name and seed; `origin` is for people."""

    kind: str
    origin: str
    sha256: str
    load: Callable[[], Classifier]

    def as_dict(self) -> dict[str, str]:
        """For the manifest."""
        return {"kind": self.kind, "origin": self.origin, "sha256": self.sha256}


def weight_source(
    spec: ModelSpec,
    option: str,
    *,
    seed: int,
    cache_dir: Path,
    lock_file: Path,
    progress: Callable[[int, int | None], None] | None,
) -> WeightSource:
    """The source that `--weights option` names: `pretrained`, `seeded` or a file.

    Raises `WeightsUnavailable` or `WeightsRejected` from the download, `UsageError` when there is no such file.
    """
    if option == SEEDED:
        return _seeded(spec, seed)
    if option == PRETRAINED:
        from builder.download import pretrained_file

        path = pretrained_file(spec, cache_dir=cache_dir, lock_file=lock_file, progress=progress)
        return _from_file(spec, path, PRETRAINED, spec.weights_url)
    path = Path(option)
    if not path.is_file():
        raise UsageError(f"--weights {option!r}: no such file; expected a file, {PRETRAINED!r} or {SEEDED!r}")
    return _from_file(spec, path, "file", path.name)


def _seeded(spec: ModelSpec, seed: int) -> WeightSource:
    def load() -> Classifier:
        from builder.seeded import seeded_module

        return seeded_module(spec, seed)

    origin = f"seed {seed} (not trained: the labels mean nothing)"
    return WeightSource(SEEDED, origin, sha256_of_text(f"{SEEDED}/{spec.name}/{spec.input_size}/{seed}"), load)


def _from_file(spec: ModelSpec, path: Path, kind: str, origin: str) -> WeightSource:
    def load() -> Classifier:
        from builder.weights import load_weights, tensors_from_file

        return load_weights(spec, tensors_from_file(path), source=str(path))

    return WeightSource(kind, origin, sha256_of_file(path), load)
