"""A stand-in for the `tensorrt` module that builds nothing and remembers what it was asked.

What it proves: which flags, profiles, limits and files the builder asks for, through the real Polygraphy, of TensorRT
10.4.0 and of 11.2.1, and that nothing is asked for that those bindings do not have: every name it offers is one of
`tests/data/tensorrt/surface_VERSION.json`, taken from the genuine bindings, and an attribute that they lack cannot even
be set. The genuine enumerations are offered whole, with their genuine numbers.

What it does not prove: anything about engines. It parses no operator, has no kernel, measures nothing, and what it
returns as a plan are bytes that the test made up. Where it behaves (an unknown input is no profile, a context manager
warns), it does so as far as the tests need.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

SURFACES = Path(__file__).parents[2] / "data" / "tensorrt"
VERSIONS = ("10.4.0", "11.2.1")


def surface_of(version: str) -> dict[str, Any]:
    """The names of the genuine bindings."""
    return json.loads((SURFACES / f"surface_{version}.json").read_text())


@dataclass
class Recording:
    """What was asked for; and, to be set before, what the stand-in answers."""

    surface: dict[str, Any]
    network_flags: set[str] = field(default_factory=set)
    parsed: str = ""
    builder_flags: set[str] = field(default_factory=set)
    pools: dict[str, int] = field(default_factory=dict)
    optimization_level: int | None = None
    verbosity: str = ""
    profiles: list[dict[str, tuple]] = field(default_factory=list)
    loaded_cache: bytes | None = None
    deserialized: bytes | None = None
    inspected: tuple[str, tuple | None] | None = None

    plan: bytes | None = b"plan"
    measured: bytes = b"measured"
    layers: str = '{"Layers": []}'
    parser_errors: list[str] = field(default_factory=list)
    log_of_build: str = ""
    has_memory: bool = True
    answer: Callable | None = None  # (profile, images) -> probabilities


class _Genuine:
    """Sets only attributes that the genuine class has."""

    _trt: Any

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self._trt.recording_.surface["classes"][type(self).__name__]:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class ILogger(_Genuine):
    pass


class Logger(ILogger):
    pass


class IHostMemory(bytes):  # the genuine one has the buffer protocol, which bytes bring with them
    @property
    def nbytes(self):
        return len(self)

    def __enter__(self):
        warnings.warn("Context managers for TensorRT types are deprecated.", DeprecationWarning, stacklevel=2)
        return self

    def __exit__(self, *_):
        return None


class ITensor(_Genuine):
    def __init__(self, name, shape):
        self.name, self.shape, self.is_shape_tensor = name, shape, False
        self.dtype = self._trt.DataType.UINT8


class INetworkDefinition(_Genuine):
    def __init__(self):
        self._inputs = []

    num_inputs = property(lambda self: len(self._inputs))

    def get_input(self, index):
        return self._inputs[index]

    def get_flag(self, flag):
        return flag.name in self._trt.recording_.network_flags

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


class IOptimizationProfile(_Genuine):
    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, *shapes):
        self._shapes[name] = shapes

    def __bool__(self):
        return all(low <= best <= high for each in self._shapes.values() for low, best, high in zip(*each, strict=True))


class ITimingCache(_Genuine):
    def __init__(self, data):
        self._data = data

    def combine(self, other, ignore_mismatch):
        self._data += other._data
        return True

    def serialize(self):
        return IHostMemory(self._data)


class IBuilderConfig(_Genuine):
    def __init__(self):
        self._flags = {"TF32"}  # as in the genuine one
        self._pools, self._profiles, self._cache = {}, [], None
        self.DLA_core, self.default_device_type = -1, self._trt.DeviceType.GPU
        self.builder_optimization_level = self.profiling_verbosity = None

    num_optimization_profiles = property(lambda self: len(self._profiles))

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def get_flag(self, flag):
        return flag.name in self._flags

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool):
        return self._pools.get(pool.name, 0)

    def create_timing_cache(self, serialized):
        return self._trt.ITimingCache(bytes(serialized))

    def set_timing_cache(self, cache, ignore_mismatch):
        self._trt.recording_.loaded_cache = cache._data
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder(_Genuine):
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        known = self._trt.NetworkDefinitionCreationFlag
        assert flags >> max(known) + 1 == 0, "a flag that this version does not have"
        self._trt.recording_.network_flags = {flag.name for flag in known if flags >> flag & 1}
        return self._trt.INetworkDefinition()

    def create_builder_config(self):
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self):
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network, config):
        recording = self._trt.recording_
        recording.builder_flags, recording.pools = set(config._flags), config._pools
        recording.optimization_level = config.builder_optimization_level
        recording.verbosity = config.profiling_verbosity.name
        recording.profiles = [profile._shapes for profile in config._profiles]
        config._cache._data += recording.measured
        if recording.log_of_build:
            self._logger.log(self._trt.Logger.ERROR, recording.log_of_build)
        return None if recording.plan is None else IHostMemory(recording.plan)


class ParserError(_Genuine):
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text

    def __str__(self):
        return self._text


class OnnxParser(_Genuine):
    def __init__(self, network, logger):
        self._network = network

    num_errors = property(lambda self: len(self._trt.recording_.parser_errors))

    def get_error(self, index):
        return self._trt.ParserError(self._trt.recording_.parser_errors[index])

    def parse_from_file(self, model):
        self._trt.recording_.parsed = model
        for graph_input in onnx.load(model).graph.input:
            dims = tuple(dim.dim_value or -1 for dim in graph_input.type.tensor_type.shape.dim)
            self._network._inputs.append(self._trt.ITensor(graph_input.name, dims))
        return not self._trt.recording_.parser_errors


class IOutputAllocator:  # made to be subclassed, so that it takes any attribute
    pass


class IExecutionContext(_Genuine):
    """Runs `Recording.answer` on what lies at the input's address, in host memory."""

    def __init__(self):
        self._shapes, self._addresses, self._allocators, self._profile = {}, {}, {}, 0

    active_optimization_profile = property(lambda self: self._profile)

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._profile, self._shapes = profile_index, {}
        return True

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return name == "image"

    def get_tensor_shape(self, name):
        return self._shapes.get(name, (-1, 96, 96, 3))

    def get_tensor_address(self, name):
        return self._addresses.get(name, 0)

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name, output_allocator):
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle):
        shape = self._shapes["image"]
        pixels = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self._addresses["image"])
        answer = self._trt.recording_.answer(self._profile, np.array(pixels, np.uint8).reshape(shape))
        for name, allocator in self._allocators.items():
            target = allocator.reallocate_output_async(name, 0, answer.nbytes, 1, stream_handle)
            ctypes.memmove(target, answer.ctypes.data, answer.nbytes)
            allocator.notify_shape(name, answer.shape)
        return True


class EngineInspector(_Genuine):
    def __init__(self):
        self.execution_context = None

    def get_engine_information(self, format):  # noqa: A002 - its genuine name
        context = self.execution_context
        self._trt.recording_.inspected = format.name, context and context._shapes.get("image")
        return self._trt.recording_.layers


class ICudaEngine(_Genuine):
    def create_execution_context(self):
        return self._trt.IExecutionContext() if self._trt.recording_.has_memory else None

    def create_engine_inspector(self):
        return self._trt.EngineInspector()

    num_io_tensors = 2

    def get_tensor_name(self, index):
        return ("image", "probabilities")[index]

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if name == "image" else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._trt.DataType.UINT8 if name == "image" else self._trt.DataType.FLOAT

    def get_tensor_format(self, name, profile_index=0):
        return self._trt.TensorFormat.LINEAR

    def get_tensor_shape(self, name):
        return (-1, 96, 96, 3) if name == "image" else (-1, 10)

    def is_shape_inference_io(self, name):
        return False


class Runtime(_Genuine):
    def __init__(self, logger):
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        self._trt.recording_.deserialized = bytes(serialized_engine)
        return self._trt.ICudaEngine() if serialized_engine == self._trt.recording_.plan else None


CLASSES = (
    Builder, EngineInspector, IBuilderConfig, ICudaEngine, IExecutionContext, IHostMemory, ILogger, INetworkDefinition,
    IOptimizationProfile, IOutputAllocator, ITensor, ITimingCache, Logger, OnnxParser, ParserError, Runtime,
)  # fmt: skip


def recording_tensorrt(version: str) -> types.ModuleType:
    """The module, for one of `VERSIONS`; its `recording_` (the one name that is not genuine) is a `Recording`."""
    surface = surface_of(version)
    module = types.ModuleType("tensorrt")
    module.__version__ = surface["version"]
    module.recording_ = Recording(surface)
    module.init_libnvinfer_plugins = lambda _logger, _namespace: True
    for name, members in surface["enums"].items():
        if "." not in name:
            setattr(module, name, enum.IntEnum(name, members))
    for name, value in surface["datatypes"].items():
        setattr(module, name, module.DataType(value))
    for cls in CLASSES:
        setattr(module, cls.__name__, type(cls.__name__, (cls,), {"_trt": module}))
    module.ILogger.Severity = enum.IntEnum("Severity", surface["enums"]["ILogger.Severity"])
    module.Logger.Severity = module.ILogger.Severity
    for severity in module.ILogger.Severity:
        setattr(module.Logger, severity.name, severity)
    return module
