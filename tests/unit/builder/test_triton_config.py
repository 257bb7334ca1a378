"""Both configs of a model, read back by Triton's own protobuf."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from builder.catalog import MODELS
from builder.errors import BuilderError
from builder.preprocessing import preprocess_json
from builder.targets import PRECISIONS
from builder.triton_config import _text, configs_from_spec

_SPEC = MODELS["InceptionV3"].with_classes(3)
_LABELS = ["cat", "dog", "Eule, große"]

# Every message of the schema of release 24.09, the newest that the last server with Volta reads, with its fields.
_FIELDS_OF_24_09: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[2] / "data" / "triton" / "model_config_fields_24.09.json").read_text(encoding="utf-8")
)


def _message(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _parsed(
    precision: str = "fp32", labels: list[str] = _LABELS, instances: int | None = None, **options: Any
) -> dict[str, Any]:
    configs = configs_from_spec(_SPEC, precision, labels, "0123456789abcdef", instances, **options)
    return {kind: _message(getattr(configs, kind)) for kind in ("gpu", "cpu")}


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            children = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            children = value if isinstance(value, list) or hasattr(value, "add") else (value,)
        for child in children:
            yield from _messages(child)


def _newer_than_24_09(config: Message) -> set[str]:
    """The fields set anywhere in `config` that release 24.09 does not know, each as message.field."""
    return {
        f"{message.DESCRIPTOR.full_name}.{field.name}"
        for message in _messages(config)
        for field, _ in message.ListFields()
        if field.name not in _FIELDS_OF_24_09.get(message.DESCRIPTOR.full_name, [])
    }


@pytest.mark.parametrize("profile_sizes", [(8,), (1, 4, 8)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_only_fields_that_release_24_09_knows_are_written(
    model: str, precision: str, profile_sizes: tuple[int, ...]
) -> None:
    """An unknown field fails the load of the whole model on the older server."""
    spec = MODELS[model].with_classes(3)
    configs = configs_from_spec(spec, precision, _LABELS, "abc", 2, profile_sizes, {"8.9": "sm89.plan"})
    for text in (configs.gpu, configs.cpu):
        assert _newer_than_24_09(_message(text)) == set()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("model_metrics { }", "inference.ModelConfig.model_metrics"),
        (
            'model_metrics { metric_control { metric_identifier { family: "x" } } }',
            "inference.ModelMetrics.MetricControl.MetricIdentifier.family",
        ),
        ("ensemble_scheduling { max_inflight_requests: 2 }", "inference.ModelEnsembling.max_inflight_requests"),
    ],
)
def test_a_field_that_came_after_release_24_09_is_found(text: str, field: str) -> None:
    """At the top, below it, and in a message that 24.09 has: otherwise the test above could not fail."""
    config = _message(configs_from_spec(_SPEC, "fp32", _LABELS, "abc").gpu)
    assert field not in _newer_than_24_09(config)
    assert field in _newer_than_24_09(text_format.Merge(text, config))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_config_leaves_nothing_to_be_completed(model: str, precision: str) -> None:
    """Servers run with --disable-auto-complete-config: what is not written is missing, never guessed."""
    spec = MODELS[model].with_classes(3)
    configs = configs_from_spec(spec, precision, _LABELS, "abc")
    for text in (configs.gpu, configs.cpu):
        config = _message(text)
        assert config.name == spec.served_name(precision)
        assert config.backend in {"tensorrt", "python"}
        assert config.max_batch_size > 0
        for tensors in (config.input, config.output):
            assert len(tensors) == 1
            for tensor in tensors:
                assert tensor.name
                assert tensor.data_type != model_config_pb2.TYPE_INVALID
                assert tensor.dims
                assert all(size > 0 for size in tensor.dims)
        assert all(group.count > 0 and group.kind != group.KIND_AUTO for group in config.instance_group)
        assert len(config.instance_group) == 1


def test_both_configs_describe_the_same_model() -> None:
    """A client cannot tell from the metadata which host answers: name, tensors, parameters and warm-up are equal."""
    parsed = _parsed()
    for field in ("name", "max_batch_size", "input", "output", "model_warmup"):
        assert getattr(parsed["gpu"], field) == getattr(parsed["cpu"], field)
    gpu, cpu = ({key: value.string_value for key, value in config.parameters.items()} for config in parsed.values())
    assert gpu == cpu


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_the_tensors_are_pixels_in_and_probabilities_out(kind: str, precision: str) -> None:
    """uint8 H x W x 3 in, float32 classes out at every precision, with the label file named for raw clients."""
    config = _parsed(precision)[kind]
    assert config.name == f"inception_v3_{precision}"
    (image,), (probabilities,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", model_config_pb2.TYPE_UINT8, [299, 299, 3])
    assert (probabilities.name, probabilities.data_type) == ("probabilities", model_config_pb2.TYPE_FP32)
    assert (list(probabilities.dims), probabilities.label_filename) == ([3], "labels.txt")


@pytest.mark.parametrize(("instances", "max_queue_size"), [(1, 0), (2, 64), (3, 64)])
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_batches_are_of_what_has_come_and_the_queue_is_bounded_beside_a_second_instance(
    kind: str, instances: int, max_queue_size: int
) -> None:
    """Up to 8, without preferred sizes, delay or time-out; a bound costs a single instance half its throughput."""
    config = _parsed(instances=instances)[kind]
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == []
    assert batching.max_queue_delay_microseconds == 0
    policy = batching.default_queue_policy
    assert (policy.default_timeout_microseconds, policy.allow_timeout_override) == (0, False)
    assert policy.max_queue_size == max_queue_size


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_the_model_is_warm_before_it_is_ready(kind: str) -> None:
    """Batch 1, 4 and 8 of random pixels are run before the first request."""
    config = _parsed()[kind]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 8]
    for sample in config.model_warmup:
        assert list(sample.inputs) == ["image"]
        assert sample.inputs["image"].random_data
        assert list(sample.inputs["image"].dims) == [299, 299, 3]


def test_the_gpu_config_names_a_plan_for_each_compute_capability() -> None:
    """One folder serves T4 and V100."""
    config = _parsed()["gpu"]
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {"7.0": "sm70.plan", "7.5": "sm75.plan"}
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(("asked_for", "gpu", "cpu"), [(None, 2, 1), (1, 1, 1), (3, 3, 3)])
def test_a_gpu_has_two_instances_and_a_cpu_one_unless_asked(asked_for: int | None, gpu: int, cpu: int) -> None:
    """On a CPU a second one would only share its cores."""
    parsed = _parsed(instances=asked_for)
    assert [parsed[kind].instance_group[0].count for kind in ("gpu", "cpu")] == [gpu, cpu]


def test_another_gpu_adds_its_plan_and_takes_none_away() -> None:
    """`--gpu auto` names the GPU it found; the rows of the table of targets stay what they are."""
    parsed = _parsed(extra_plans={"8.9": "sm89.plan", "7.5": "mine.plan"})
    plans = {"7.0": "sm70.plan", "7.5": "sm75.plan", "8.9": "sm89.plan"}
    assert dict(parsed["gpu"].cc_model_filenames) == plans
    assert parsed["cpu"] == _parsed()["cpu"]


def test_one_profile_needs_no_list_of_profiles() -> None:
    """An instance takes profile 0 by itself; a folder built before there were profiles keeps its text."""
    (group,) = _parsed()["gpu"].instance_group
    assert list(group.profile) == []


@pytest.mark.parametrize("instances", [1, 2])
def test_every_instance_has_a_context_for_every_profile(instances: int) -> None:
    """One group lists all profiles: a batch goes to any free instance, and some profile there must admit it."""
    parsed = _parsed(instances=instances, profile_sizes=(1, 4, 8))
    (group,) = parsed["gpu"].instance_group
    assert group.count == instances
    assert list(group.profile) == ["0", "1", "2"]
    assert parsed["cpu"] == _parsed(instances=instances)["cpu"]


@pytest.mark.parametrize(
    ("profile_sizes", "expected"),
    [((8,), range(1, 9)), ((1, 4, 8), range(1, 9)), ((1, 4), range(1, 5)), ((1,), range(1, 2))],
    ids=str,
)
def test_a_cuda_graph_is_captured_for_each_size_that_some_profile_admits(
    profile_sizes: tuple[int, ...], expected: range
) -> None:
    """A size that no profile admits would only fail; one that some profile admits must not run without a graph."""
    cuda = _parsed(profile_sizes=profile_sizes)["gpu"].optimization.cuda
    assert cuda.graphs
    assert [spec.batch_size for spec in cuda.graph_spec] == list(expected)
    for spec in cuda.graph_spec:
        # The backend refuses the model for a size outside these; the sizes of one graph need no padding.
        assert 1 <= spec.batch_size <= 8
        assert not spec.HasField("graph_lower_bound")


def test_the_cpu_config_has_nothing_of_a_gpu() -> None:
    """The Python backend on the processor: no plan names, no CUDA settings."""
    config = _parsed(instances=2)["cpu"]
    assert config.backend == "python"
    assert dict(config.cc_model_filenames) == {}
    assert not config.HasField("optimization")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)


def test_an_fp16_model_says_on_the_cpu_what_it_is_not() -> None:
    """A CPU runtime computes an FP16 graph in FP32: neither its speed nor its overflow is a GPU's."""
    parsed = _parsed("fp16")
    gpu, cpu = (dict(parsed[kind].parameters) for kind in ("gpu", "cpu"))
    assert cpu.pop("emulated").string_value == "fp16 weights, fp32 arithmetic"
    assert cpu == gpu
    assert "emulated" not in _parsed("fp32")["cpu"].parameters


def test_the_parameters_are_the_contract_with_the_client() -> None:
    """Architecture, precision, release, preprocessing and labels, the last two with their hashes."""
    parameters = {key: value.string_value for key, value in _parsed("fp16")["gpu"].parameters.items()}
    preprocess = preprocess_json(_SPEC)
    assert parameters == {
        "architecture": "InceptionV3",
        "precision": "fp16",
        "release": "0123456789abcdef",
        "classes": "3",
        "preprocess": preprocess,
        "preprocess_sha256": hashlib.sha256(preprocess.encode()).hexdigest(),
        "labels": parameters["labels"],
        "labels_sha256": hashlib.sha256(parameters["labels"].encode()).hexdigest(),
    }
    assert json.loads(parameters["labels"]) == _LABELS
    assert json.loads(preprocess)["crop"] == 299
    assert json.loads(preprocess)["resize_short"] == 320


def test_without_a_release_only_that_parameter_is_missing() -> None:
    """The release id is computed over the configs without it."""
    with_release, without = (configs_from_spec(_SPEC, "fp32", _LABELS, release) for release in ("abc", None))
    for kind in ("gpu", "cpu"):
        one, other = (
            text_format.Parse(getattr(configs, kind), model_config_pb2.ModelConfig())
            for configs in (with_release, without)
        )
        assert "release" not in other.parameters
        del one.parameters["release"]
        assert one == other


_LABEL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    labels=st.lists(_LABEL, min_size=1, max_size=30),
    size=st.integers(96, 1024),
    model=st.sampled_from(sorted(MODELS)),
    precision=st.sampled_from(["fp32", "fp16"]),
)
def test_any_labels_and_any_size_come_back_as_given(labels: list[str], size: int, model: str, precision: str) -> None:
    """Quotes, backslashes, emoji: what the builder was given is what a client reads."""
    spec = MODELS[model].at_input_size(size).with_classes(len(labels))
    configs = configs_from_spec(spec, precision, labels, "abc")
    for text in (configs.gpu, configs.cpu):
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert json.loads(config.parameters["labels"].string_value) == labels
        assert list(config.input[0].dims) == [size, size, 3]
        assert list(config.output[0].dims) == [len(labels)]
        assert config.name == spec.served_name(precision)


def test_a_field_that_is_not_tritons_fails_in_the_builder() -> None:
    """A misspelt field is found when a config is written, not when a server starts."""
    with pytest.raises(BuilderError, match="max_batch_sise"):
        _text({"max_batch_sise": 8})
