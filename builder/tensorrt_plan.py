"""`model.onnx` -> a TensorRT plan for the GPU of this machine, through Polygraphy; and a plan run again.

Precision is a matter of the ONNX file: networks are strongly typed, which TensorRT 10 and 11 both have, while the FP16
switch of a weakly typed network left with 11.0. polygraphy and tensorrt are imported when they are called.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import IncompleteBuild, PlanFailed
from builder.hashing import sha256_of_bytes
from builder.onnx_graph import INPUT, OUTPUT
from builder.profiles import BatchProfile
from builder.targets import STRONGLY_TYPED_FROM, version_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIB = 1 << 20
_TOLD_ERRORS = 4
# What the bindings raise besides Polygraphy's own exception; a name that a release dropped is an AttributeError.
_LIBRARY_ERRORS = (RuntimeError, AttributeError, TypeError, ValueError, LookupError, OSError, MemoryError)


@dataclass(frozen=True)
class PlanOptions:
    """How plans are built.

    `builder_optimization_level` 3 is TensorRT's own default: 4 and 5 take several times as long for gains to be
    measured first. `workspace_mib` 4096 is a quarter of the 16 GB of a T4 and of the smaller V100: more than a batch of
    8 at 299 pixels asks for, and the rest holds weights, activations and the timed candidates. TF32 is off: neither GPU
    has it, and FP32 shall mean FP32 on newer ones too. `is_weakly_typed` lets TensorRT before 11 choose FP32 or FP16
    layer by layer, to be held against the strongly typed plan.
    """

    builder_optimization_level: int = 3
    workspace_mib: int = 4096
    is_tf32_allowed: bool = False
    is_weakly_typed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For the record of a plan, and for its key."""
        return asdict(self)


@dataclass(frozen=True)
class PlanJob:
    """One plan to build: which file, for which batch sizes, how; `timing_cache` is read where it is, and written."""

    onnx: Path
    precision: str
    input_size: int
    profiles: tuple[BatchProfile, ...]
    options: PlanOptions
    timing_cache: Path

    def shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """N x H x W x 3 of the input."""
        return batch_size, self.input_size, self.input_size, 3


@dataclass(frozen=True)
class Plan:
    """A serialized plan; `layers` is the engine inspector's JSON text at the optimum of the first profile.

    `timing_cache_sha256` is None where the cache could not be saved, which is then one of the `cautions`: lines that
    whoever builds should read.
    """

    data: bytes
    layers: str
    tensorrt: str
    timing_cache_sha256: str | None
    cautions: tuple[str, ...] = ()


def plan_from_onnx(job: PlanJob) -> Plan:
    """Build a plan for the GPU that CUDA sees first; minutes of its time, fewer with a timing cache.

    Two builds give equal answers, not equal bytes: TensorRT times candidates on a machine that is never quite the same.
    Raises `IncompleteBuild` where polygraphy or tensorrt is missing or weak typing is asked of a TensorRT without it,
    `PlanFailed` with TensorRT's own words for the rest.
    """
    tensorrt = _imported_tensorrt()
    _refuse_weak_typing(job.options, tensorrt.__version__)
    _check_place(job.timing_cache)
    with _failures_told(f"TensorRT {tensorrt.__version__} could not build a plan from {job.onnx}"):
        data, config = _built(job, tensorrt)
    sha256, cautions = _saved_timings(config, job.timing_cache)
    with _failures_told(f"TensorRT {tensorrt.__version__} could not load the plan it built from {job.onnx}"):
        layers = _layers(data, job, tensorrt)
    return Plan(data, layers, tensorrt.__version__, sha256, cautions)


@contextmanager
def plan_runner(plan: bytes) -> Iterator[Callable[[int, NDArray[np.uint8]], NDArray[np.float32]]]:
    """Load a plan again and yield (profile index, uint8 images N x H x W x 3) -> probabilities, float32 N x classes.

    Raises `IncompleteBuild` as `plan_from_onnx` does, `PlanFailed` when the plan cannot be loaded or run.
    """
    import numpy as np

    tensorrt = _imported_tensorrt()
    with ExitStack() as stack:
        with _failures_told(f"TensorRT {tensorrt.__version__} could not load the plan it built"):
            from polygraphy.backend.trt import TrtRunner, engine_from_bytes

            runner = stack.enter_context(TrtRunner(engine_from_bytes(plan)))

        def run(profile: int, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            with _failures_told(f"TensorRT could not run the plan on profile {profile} at batch {len(images)}"):
                runner.set_profile(profile)
                answers = runner.infer({INPUT: np.ascontiguousarray(images)})
                return np.array(answers[OUTPUT])  # a copy: the runner's own buffer is overwritten by its next run

        yield run


def _built(job: PlanJob, tensorrt: Any) -> tuple[bytes, Any]:
    """The serialized plan, and the builder configuration, which holds what was measured."""
    from polygraphy.backend.trt import CreateConfig, Profile, engine_bytes_from_network, network_from_onnx_path

    options = job.options
    profiles = [
        Profile().add(INPUT, job.shape(profile.minimum), job.shape(profile.optimum), job.shape(profile.maximum))
        for profile in job.profiles
    ]
    builder, network, parser = network_from_onnx_path(str(job.onnx), strongly_typed=not options.is_weakly_typed)
    config = CreateConfig(
        profiles=profiles,
        tf32=options.is_tf32_allowed,
        fp16=options.is_weakly_typed and job.precision == "fp16",
        memory_pool_limits={tensorrt.MemoryPoolType.WORKSPACE: options.workspace_mib * MIB},
        builder_optimization_level=options.builder_optimization_level,
        profiling_verbosity=tensorrt.ProfilingVerbosity.DETAILED,
        load_timing_cache=str(job.timing_cache) if job.timing_cache.is_file() else None,
    )(builder, network)
    # Without Polygraphy's `save_timing_cache`: a cache that cannot be saved would take the finished plan down.
    return bytes(engine_bytes_from_network((builder, network, parser), config)), config


def _saved_timings(config: Any, timing_cache: Path) -> tuple[str | None, tuple[str, ...]]:
    """SHA-256 of the file that now has this build's timings too; None and a caution where it could not be written."""
    from polygraphy.util import LockFile

    try:
        timings = config.get_timing_cache()
        with LockFile(str(timing_cache)):
            kept = config.create_timing_cache(timing_cache.read_bytes()) if timing_cache.is_file() else None
            if kept is not None:  # what is in it by now stays: two builds may share it; what cannot be read does not
                timings.combine(kept, ignore_mismatch=True)
            saved, unfinished = bytes(timings.serialize()), timing_cache.with_name(f"{timing_cache.name}.new")
            unfinished.write_bytes(saved)
            unfinished.replace(timing_cache)
    except _LIBRARY_ERRORS as error:
        told = f"the timing cache {timing_cache} could not be saved, the next build takes as long: {error}"
        return None, (told,)
    return sha256_of_bytes(saved), ()


def _layers(data: bytes, job: PlanJob, tensorrt: Any) -> str:
    """The layers with their types, which a plan of open batch size tells only at a given one."""
    from polygraphy.backend.trt import engine_from_bytes

    engine = engine_from_bytes(data)
    context = engine.create_execution_context()
    if context is None:
        raise PlanFailed(
            f"TensorRT {tensorrt.__version__} built a plan from {job.onnx} but no execution context for it, as when "
            "the memory of the GPU is full. Nothing was published. Stop what else uses the GPU and build again"
        )
    shape = job.shape(job.profiles[0].optimum)
    if not context.set_input_shape(INPUT, shape):
        raise PlanFailed(f"the plan of {job.onnx} refuses the input {shape} it was tuned for. Nothing was published")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def _imported_tensorrt() -> Any:
    """The module; polygraphy is looked for too, so that both are missed at once."""
    missing = []
    for name in ("tensorrt", "polygraphy"):
        try:
            __import__(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise IncompleteBuild(
            f"a TensorRT plan needs tensorrt and polygraphy; here is no {' and no '.join(missing)}. Run this step in "
            "the TensorRT image of the GPU's release, which has tensorrt; `pip install 'polygraphy>=0.53'` adds the "
            "rest; `python -m builder doctor` names the image and the command"
        )
    import tensorrt

    return tensorrt


def _refuse_weak_typing(options: PlanOptions, version: str) -> None:
    if options.is_weakly_typed and version_key(version) >= version_key(STRONGLY_TYPED_FROM):
        raise IncompleteBuild(
            f"--weak-fp16 needs TensorRT before {STRONGLY_TYPED_FROM}, and here is {version}, whose networks are all "
            "strongly typed. Nothing was built. Leave the option out: the FP16 file has its types in it"
        )


def _check_place(timing_cache: Path) -> None:
    """Before minutes are spent whose timings could not be kept."""
    try:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(timing_cache.parent, os.W_OK) and (
            not timing_cache.exists() or (timing_cache.is_file() and os.access(timing_cache, os.R_OK | os.W_OK))
        )
    except OSError:
        is_writable = False
    if not is_writable:
        raise PlanFailed(
            f"the timing cache {timing_cache} cannot be written. Nothing was built. Give --cache-dir a directory that "
            "this user may write, or delete what stands in the cache's place"
        )


class _Errors(logging.Handler):
    """What Polygraphy and TensorRT say of an error, which the exception itself does not repeat."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(re.sub(r"^\[.\] ", "", record.getMessage().strip()).split()))


@contextmanager
def _failures_told(what: str) -> Iterator[None]:
    """Turn every failure of the libraries into one `PlanFailed`; their chatter goes to the logger `Polygraphy`."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    errors, log = _Errors(), logging.getLogger("Polygraphy")
    before = G_LOGGER.use_python_logging_system, G_LOGGER.colors
    log.addHandler(errors)
    G_LOGGER.use_python_logging_system, G_LOGGER.colors = True, False
    try:
        yield
    except (PolygraphyException, *_LIBRARY_ERRORS) as error:
        kind = "" if isinstance(error, PolygraphyException) else f"{type(error).__name__}: "
        said = [*errors.lines[-_TOLD_ERRORS:], kind + " ".join(str(error).split())]
        reasons = "; ".join(dict.fromkeys(line.rstrip(".") for line in said))
        raise PlanFailed(
            f"{what}: {reasons}. Nothing was published. Where memory is the reason, stop what "
            "else uses the GPU or lower --workspace-mib; `python -m builder doctor` shows whether GPU, driver and "
            "TensorRT fit each other"
        ) from error
    finally:
        G_LOGGER.use_python_logging_system, G_LOGGER.colors = before
        log.removeHandler(errors)
