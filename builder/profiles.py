"""Optimisation profiles: for which batch sizes a plan is tuned. Standard library only.

TensorRT tunes at a profile's optimum and is merely valid at its other sizes; Triton gives a batch to the profile whose
optimum is nearest among those that admit it. One profile 1/8/8 favours full batches; three, for 1, 4 and 8, favour the
small ones and cost the memory of two more execution contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import UsageError

MAX_BATCH_SIZE = 8
DEFAULT_PROFILE_SIZES = (MAX_BATCH_SIZE,)


@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes that one profile admits (`minimum` to `maximum`) and the one it is tuned for."""

    minimum: int
    optimum: int
    maximum: int

    def admits(self, batch_size: int) -> bool:
        """Whether a batch of this size may run on the profile."""
        return self.minimum <= batch_size <= self.maximum


def profiles_from_sizes(sizes: Sequence[int]) -> tuple[BatchProfile, ...]:
    """One profile for each size, from 1 to that size and tuned for it: (1, 4, 8) -> 1/1/1, 1/4/4, 1/8/8."""
    return tuple(BatchProfile(1, size, size) for size in sizes)


def sizes_from_option(text: str | None) -> tuple[int, ...]:
    """The sizes of `--profiles 1,4,8`; (8,) without the option.

    Raises `UsageError` unless they rise and end with 8: some profile must admit every batch that Triton forms.
    """
    if text is None:
        return DEFAULT_PROFILE_SIZES
    words = [word.strip() for word in text.split(",")]
    sizes = tuple(int(word) for word in words if word.isdecimal())
    if len(sizes) != len(words) or sizes != tuple(sorted(set(sizes))) or sizes[0] < 1 or sizes[-1] != MAX_BATCH_SIZE:
        raise UsageError(
            f"--profiles {text!r}: expected batch sizes from 1 to {MAX_BATCH_SIZE} that rise and end with "
            f"{MAX_BATCH_SIZE}, separated by commas, such as 8 or 1,4,8"
        )
    return sizes
