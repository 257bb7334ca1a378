"""config.pbtxt, for TensorRT and for the CPU, through Triton's own protobuf: a misspelt field fails here.

Only fields of release 24.09's `model_config.proto` are written: that is the oldest server that reads these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.catalog import ModelSpec
from builder.errors import BuilderError
from builder.hashing import canonical_json, sha256_of_text
from builder.onnx_graph import INPUT, OUTPUT
from builder.preprocessing import preprocess_json
from builder.profiles import DEFAULT_PROFILE_SIZES, MAX_BATCH_SIZE, BatchProfile, profiles_from_sizes
from builder.targets import GPU_TARGETS

WARM_UP_BATCHES = (1, 4, 8)
MAX_QUEUE_SIZE = 64
# On a GPU two overlap copying and computing; on a CPU both would share the same cores, and double the memory.
GPU_INSTANCES = 2
CPU_INSTANCES = 1
EMULATED_FP16 = "fp16 weights, fp32 arithmetic"


@dataclass(frozen=True)
class Configs:
    """The text of config.pbtxt (TensorRT) and configs/cpu.pbtxt (Python backend) of one served model."""

    gpu: str
    cpu: str


def configs_from_spec(  # noqa: PLR0917 - the last ones are options
    spec: ModelSpec,
    precision: str,
    labels: list[str],
    release: str | None,
    instances: int | None = None,
    profile_sizes: Sequence[int] = DEFAULT_PROFILE_SIZES,
    extra_plans: Mapping[str, str] | None = None,
) -> Configs:
    """Both configs of `spec` at `precision`: same tensors and parameters, one backend each.

    `instances` run side by side; None means `GPU_INSTANCES` and `CPU_INSTANCES`. A single one has no bound to its
    queue, see `_batching`. `profile_sizes` are those that every
    plan of the folder is built with (see `builder.profiles`); only the GPU config knows them. `extra_plans` names the
    plans of GPUs that the table of targets lacks, by compute capability; the table's own rows are always there. On the
    CPU an FP16 model says that it is `emulated`: its weights are FP16, its arithmetic is FP32.

    `release` None leaves that parameter out, which is how the release id itself is computed. Raises `BuilderError` when
    a field is not Triton's.
    """
    common = _common(spec, precision, labels, release)
    on_cpu, on_gpu = instances or CPU_INSTANCES, instances or GPU_INSTANCES
    cpu = common | _python(on_cpu) | _batching(on_cpu)
    if precision == "fp16":
        cpu["parameters"] = common["parameters"] | {"emulated": {"string_value": EMULATED_FP16}}
    gpu = common | _tensorrt(on_gpu, profiles_from_sizes(profile_sizes), extra_plans or {}) | _batching(on_gpu)
    return Configs(gpu=_text(gpu), cpu=_text(cpu))


def _common(spec: ModelSpec, precision: str, labels: list[str], release: str | None) -> dict[str, Any]:
    dims = [spec.input_size, spec.input_size, 3]
    return {
        "name": spec.served_name(precision),
        "max_batch_size": MAX_BATCH_SIZE,
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": dims}],
        "output": [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [spec.classes], "label_filename": "labels.txt"}],
        "model_warmup": [
            {
                "name": f"batch {size}",
                "batch_size": size,
                "inputs": {INPUT: {"data_type": "TYPE_UINT8", "dims": dims, "random_data": True}},
            }
            for size in WARM_UP_BATCHES
        ],
        "parameters": {
            name: {"string_value": value} for name, value in _parameters(spec, precision, labels, release).items()
        },
    }


def _parameters(spec: ModelSpec, precision: str, labels: list[str], release: str | None) -> dict[str, str]:
    """What a client reads instead of guessing."""
    preprocess = preprocess_json(spec)
    labels_json = canonical_json(labels)
    parameters = {
        "architecture": spec.name,
        "precision": precision,
        "preprocess": preprocess,
        "preprocess_sha256": sha256_of_text(preprocess),
        "labels": labels_json,
        "labels_sha256": sha256_of_text(labels_json),
        "classes": str(spec.classes),
    }
    return parameters if release is None else parameters | {"release": release}


def _batching(instances: int) -> dict[str, Any]:
    """Batches of what has come, without preferred sizes and without delay: those cost 23 % at concurrency 16.

    With any queue policy, be it only a bound, Triton forms a batch no earlier than an instance asks for one, and a
    single instance then waits for it: measured to cost 40 to 70 % of the throughput of full batches
    (docs/benchmarks.md). With two, one computes while the other asks. A time-out is no policy for either: what a client
    over gRPC no longer waits for is dropped all the same, and by Triton's issue 8870 a model with one slows down for
    good.
    """
    policy = {} if instances == 1 else {"default_queue_policy": {"max_queue_size": MAX_QUEUE_SIZE}}
    return {"dynamic_batching": policy}


def _tensorrt(instances: int, profiles: Sequence[BatchProfile], extra_plans: Mapping[str, str]) -> dict[str, Any]:
    plans = {target.compute_capability: target.plan_filename for target in GPU_TARGETS}
    instance_group: dict[str, Any] = {"count": instances, "kind": "KIND_GPU"}
    if len(profiles) > 1:
        # All in one group: a batch goes to any free instance, which must therefore have a profile that admits it.
        # Without this list an instance makes a context for profile 0 alone.
        instance_group["profile"] = [str(index) for index in range(len(profiles))]
    return {
        "backend": "tensorrt",
        "cc_model_filenames": {**extra_plans, **plans},
        "instance_group": [instance_group],
        "optimization": {
            "cuda": {"graphs": True, "graph_spec": [{"batch_size": size} for size in _graph_sizes(profiles)]}
        },
    }


def _graph_sizes(profiles: Sequence[BatchProfile]) -> list[int]:
    """Batch sizes to capture CUDA graphs for: each that some profile admits, and no other.

    Without explicit sizes the backend captures 1 and the maximum only; batches of other sizes then run without a graph.

    `graph_spec` belongs to the model, not to a profile, and the backend tries every entry on the context of every
    profile. Where the profile does not admit the size, `SetCudaGraphShape` fails, the log says "Failed to set cuda
    graph shape", and the load goes on: `InitializeCudaGraph` ignores what `BuildCudaGraph` returns. Fatal is only a
    size outside 1..max_batch_size (`ValidateGraphSpec`). So the union over the profiles costs log lines (11 for each
    instance with the profiles 1, 4, 8), while the intersection would leave all batches but the smallest without a
    graph. `graph_lower_bound` is no way out: such a graph serves smaller batches at its own size's price and is tried
    on every profile just the same. Read in the backend's src/instance_state.cc of 2023, with 24.09's own not at hand,
    and never seen on a GPU.
    """
    sizes = range(1, MAX_BATCH_SIZE + 1)
    return [size for size in sizes if any(profile.admits(size) for profile in profiles)]


def _python(instances: int) -> dict[str, Any]:
    return {"backend": "python", "instance_group": [{"count": instances, "kind": "KIND_CPU"}]}


def _text(config: dict[str, Any]) -> str:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        message = json_format.Parse(json.dumps(config), model_config_pb2.ModelConfig())
    except json_format.ParseError as error:
        raise BuilderError(
            f"not a field of Triton's model configuration: {error}. This is a bug of the builder"
        ) from error
    text: str = text_format.MessageToString(message, as_utf8=True)
    return text
