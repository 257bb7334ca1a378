"""How large and how costly a network is, by three rules; two of them are the conventions of PaddleClas's own tables.

The published figures cannot be compared without knowing their rule: for Xception41 the same network is 22.92 M
parameters and 8.50 G multiply-accumulates (`true_counts`), 22.69 M and 16.74 G (`model_stat_counts`, the page of the
Inception series), or 23.02 M and 8.57 G (`paddle_flops_counts`, the list of all models).

All three read the operations of one real forward at batch 1, run on meta tensors: shapes only, no arithmetic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Kind(Enum):
    """What a counted call does."""

    CONV = auto()
    LINEAR = auto()
    NORM = auto()
    RELU = auto()
    MAX_POOL = auto()
    AVERAGE_POOL = auto()
    GLOBAL_POOL = auto()


# The functions that the layers of the networks end in, whether called as a module or by themselves.
_KINDS: dict[Callable[..., Any], Kind] = {
    F.conv2d: Kind.CONV,
    F.linear: Kind.LINEAR,
    F.batch_norm: Kind.NORM,
    F.relu: Kind.RELU,
    F.max_pool2d: Kind.MAX_POOL,
    F.avg_pool2d: Kind.AVERAGE_POOL,
    F.adaptive_avg_pool2d: Kind.GLOBAL_POOL,
}

# `model_stat` looked for "fc" in an operation's output name. In PaddleClas's network of 2020 GoogLeNet's three heads
# were called out, out1 and out2, every other linear layer of the series had a name with "fc". Our paths of those three:
_HEADS_NOT_NAMED_FC = frozenset({"_fc_out", "_out1", "_out2"})


@dataclass(frozen=True)
class Counts:
    """Parameters as scalars, and operations for one image; what an operation is depends on the rule."""

    params: int
    ops: int


@dataclass(frozen=True)
class Operation:
    """One counted call. `weight_shape` is () and `layer` empty where there is no weight; `window` is a pool's area."""

    kind: Kind
    layer: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: int = 0
    groups: int = 1


class _Recorder(TorchFunctionMode):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._layers = {id(weight): name.rpartition(".")[0] for name, weight in module.named_parameters()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        kind = _KINDS.get(func)
        if kind is not None:
            self.operations.append(self._operation(kind, args, kwargs, output))
        return output

    def _operation(self, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Operation:
        source: Tensor = args[0]
        weight: Tensor | None = None
        window, groups = 0, 1
        if kind in {Kind.CONV, Kind.LINEAR}:
            weight = args[1]
        elif kind == Kind.NORM:
            weight = kwargs.get("weight", args[3] if len(args) > 3 else None)
        elif kind in {Kind.MAX_POOL, Kind.AVERAGE_POOL}:
            sides = args[1]
            window = sides * sides if isinstance(sides, int) else math.prod(sides)
        elif kind == Kind.GLOBAL_POOL:
            window = math.prod(source.shape[2:])
        if kind == Kind.CONV and weight is not None:
            groups = source.shape[1] // weight.shape[1]
        return Operation(
            kind,
            "" if weight is None else self._layers[id(weight)],
            () if weight is None else tuple(weight.shape),
            tuple(source.shape),
            tuple(output.shape),
            window,
            groups,
        )


def operations_of(module: nn.Module, input_size: int, *, is_auxiliary_counted: bool) -> list[Operation]:
    """The counted operations of one image's forward in eval mode, in order. `module` itself is left as it is."""
    twin = copy.deepcopy(module).to("meta").eval()
    has_auxiliaries = bool(getattr(twin, "auxiliary_heads", ()))
    run: Any = twin.forward_with_auxiliaries if is_auxiliary_counted and has_auxiliaries else twin
    recorder = _Recorder(twin)
    with torch.no_grad(), recorder:
        run(torch.empty(1, 3, input_size, input_size, device="meta"))
    return recorder.operations


def true_counts(module: nn.Module, input_size: int) -> Counts:
    """All learnable parameters of `module`, and the multiply-accumulates of the path that `forward` runs.

    Multiply-accumulates are those of convolutions and linear layers. Drop auxiliary heads first
    (`architectures.without_auxiliary_heads`) to leave their parameters out; their operations never count.
    """
    operations = operations_of(module, input_size, is_auxiliary_counted=False)
    return Counts(
        params=sum(parameter.numel() for parameter in module.parameters()),
        ops=sum(_multiply_accumulates(operation) for operation in operations),
    )


def model_stat_counts(module: nn.Module, input_size: int) -> Counts:
    """The figures of PaddleClas's page on the Inception series, auxiliary heads included.

    Source: `summary` of `paddle.fluid.contrib.model_stat` in PaddlePaddle 1.x, which gives all 16 figures of the page.
    It is quoted with its quirks: a filter's input width is divided by the groups twice, so that depthwise convolutions
    count almost nothing; a linear layer has one bias and no factor 2, and is left out where its name lacks "fc"; a
    ReLU's operations are the product of its input's shape with the batch of -1, and so are subtracted.
    """
    operations = operations_of(module, input_size, is_auxiliary_counted=True)
    return _total(_model_stat(operation) for operation in operations)


def paddle_flops_counts(module: nn.Module, input_size: int) -> Counts:
    """The figures of PaddleClas's list of all models, auxiliary heads included.

    Source: `paddle.flops` of PaddlePaddle 2.2 and later. Multiply-accumulates, two operations an element for batch
    normalisation, one for an average pool, window + 1 for a global pool; nothing for ReLU and max pools. The
    normalisation's running mean and variance count as parameters.
    """
    operations = operations_of(module, input_size, is_auxiliary_counted=True)
    statistics = sum(2 * math.prod(operation.weight_shape) for operation in operations if operation.kind == Kind.NORM)
    learnable = sum(parameter.numel() for parameter in module.parameters())
    return Counts(params=learnable + statistics, ops=sum(_paddle_flops(operation) for operation in operations))


def _multiply_accumulates(operation: Operation) -> int:
    if operation.kind not in {Kind.CONV, Kind.LINEAR}:
        return 0
    return math.prod(operation.output_shape) * math.prod(operation.weight_shape[1:])


def _model_stat(operation: Operation) -> Counts:
    output_elements = math.prod(operation.output_shape)
    match operation.kind:
        case Kind.CONV:
            # The filter's second side is the input width over the groups already; the rule divides once more.
            params = math.prod(operation.weight_shape) // operation.groups
            return Counts(params, 2 * params * math.prod(operation.output_shape[2:]))
        case Kind.NORM:
            return Counts(2 * operation.input_shape[1], 2 * output_elements)
        case Kind.LINEAR if operation.layer not in _HEADS_NOT_NAMED_FC:
            weights = math.prod(operation.weight_shape)
            return Counts(weights + 1, weights)
        case Kind.MAX_POOL | Kind.AVERAGE_POOL | Kind.GLOBAL_POOL:
            # A global pool stores its window as -1 x -1, which multiplies to 1.
            return Counts(0, output_elements * (1 if operation.kind is Kind.GLOBAL_POOL else operation.window))
        case Kind.RELU:
            return Counts(0, -math.prod(operation.input_shape))
    return Counts(0, 0)


def _paddle_flops(operation: Operation) -> int:
    output_elements = math.prod(operation.output_shape)
    match operation.kind:
        case Kind.NORM:
            return 2 * output_elements
        case Kind.AVERAGE_POOL:
            return output_elements
        case Kind.GLOBAL_POOL:
            return output_elements * (operation.window + 1)
    return _multiply_accumulates(operation)


def _total(counts: Iterable[Counts]) -> Counts:
    rows = list(counts)
    return Counts(sum(row.params for row in rows), sum(row.ops for row in rows))
