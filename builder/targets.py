"""The machines a folder is built for: one row each. Standard library only.

A new GPU is one row here and its services in docker-compose.yml. Sources: NVIDIA's TensorRT release notes (Volta left
with 10.5, the FP16 builder flag with 11.0), the version files of the Triton releases, the release notes of their
containers, and CUDA's table of minor-version compatibility (12.x from driver 525, 13.x from driver 580; Volta's last
driver branch is 580). The versions are defaults; the record beside a plan says what built it.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import UsageError

PRECISIONS = ("fp32", "fp16")
AUTO = "auto"  # --gpu auto: the row of the GPU that is here, or one made from it
_REGISTRY = "nvcr.io/nvidia"
_SPOKEN_WITH_A_VOWEL = ("NVIDIA", "A", "E", "I", "O")


@dataclass(frozen=True)
class Target:
    """One kind of host.

    `compute_capability` and all below it is None on a host without a GPU. `tensorrt` is the version in the image of
    `triton_release`, which must build what it serves; `tensorrt_before` is the first one that has left this GPU
    behind. `driver_branch` is the least branch that runs the image's CUDA, `driver_branch_last` the last one for this
    GPU. `python` is the image's own. `precisions` is what `--precision` means when it is not given.
    """

    name: str
    title: str
    triton_release: str
    precisions: tuple[str, ...]
    compute_capability: str | None = None
    tensorrt: str | None = None
    tensorrt_before: str | None = None
    cuda: str | None = None
    driver_branch: int | None = None
    driver_branch_last: int | None = None
    python: str | None = None
    why: str = ""

    @property
    def is_listed(self) -> bool:
        """Whether this is a row of the table, with a name that `--gpu` takes and services in docker-compose.yml."""
        return self.name in TARGETS

    @property
    def option(self) -> str:
        """What `--gpu` is given to mean this row."""
        return self.name if self.is_listed else AUTO

    @property
    def a_title(self) -> str:
        """The title with its article: an NVIDIA T4, a Quadro RTX 6000."""
        return f"{'an' if self.title.startswith(_SPOKEN_WITH_A_VOWEL) else 'a'} {self.title}"

    @property
    def plan_filename(self) -> str | None:
        """Name of this GPU's plan in a version directory, such as `sm75.plan`; None without a GPU."""
        return None if self.compute_capability is None else f"sm{self.compute_capability.replace('.', '')}.plan"

    @property
    def triton_image(self) -> str:
        """The image that serves."""
        return f"{_REGISTRY}/tritonserver:{self.triton_release}-py3"

    @property
    def tensorrt_image(self) -> str:
        """The image that builds plans: of the same month as the one that serves, hence of the same TensorRT."""
        return f"{_REGISTRY}/tensorrt:{self.triton_release}-py3"

    @property
    def sdk_image(self) -> str:
        """The image that has perf_analyzer."""
        return f"{_REGISTRY}/tritonserver:{self.triton_release}-py3-sdk"


CPU = Target("cpu", "a machine without a GPU", "26.08", ("fp32",))
T4 = Target(
    "t4", "NVIDIA T4", "26.08", ("fp16", "fp32"),
    compute_capability="7.5",
    tensorrt="11.2.1",
    cuda="13",
    driver_branch=580,
    python="3.12",
    why="Turing is in every TensorRT so far; 26.07 is the first release without the known holes of the older ones",
)  # fmt: skip
V100 = Target(
    "v100", "NVIDIA V100", "24.09", ("fp16", "fp32"),
    compute_capability="7.0",
    tensorrt="10.4.0.26",
    tensorrt_before="10.5",
    cuda="12.6",
    driver_branch=525,
    driver_branch_last=580,
    python="3.10",
    why="TensorRT 10.5 removed Volta, and 24.09 is the last release with an older one",
)  # fmt: skip

TARGETS: dict[str, Target] = {target.name: target for target in (T4, V100, CPU)}
GPU_TARGETS: tuple[Target, ...] = (V100, T4)
# Before 10.0 there is no strongly typed network that Polygraphy and our ONNX files were written for.
TENSORRT_FLOOR = "10.0"
# The first TensorRT in which every network is strongly typed and the FP16 switch is gone.
STRONGLY_TYPED_FROM = "11.0"


def version_key(version: str) -> tuple[int, ...]:
    """`10.4.0.26` as numbers that compare; a suffix such as `.post1` is left out."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def precisions_from_option(text: str | None, target: Target) -> tuple[str, ...]:
    """The precisions of `--precision fp32,fp16`, in that order; the target's own without the option.

    Raises `UsageError` for a word that is not a precision.
    """
    if text is None:
        return target.precisions
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(wanted) - set(PRECISIONS))
    if unknown or not wanted:
        raise UsageError(f"--precision {text!r}: expected some of {', '.join(PRECISIONS)}, separated by commas")
    return tuple(dict.fromkeys(wanted))
