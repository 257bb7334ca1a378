"""`.pdparams` files: what `paddle.save` writes, a pickled dict of name -> float array.

`pickle_machine` turns the file into values and notes of calls; here the notes are compared with the few forms in which
numpy writes an array, and the arrays are made from their bytes. Nothing that the file names is imported or called, and
numpy's own unpickling is not reached, so a huge shape or an object array never gets as far as memory.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from builder.errors import WeightsRejected
from builder.pickle_machine import BoundedStream, Call, MalformedPickleError, PickleMachine, Role, kind_of

MAX_FILE_BYTES = 1 << 30  # the largest official file has 171 MB
MAX_ELEMENTS = 1 << 27  # InceptionV4, the largest model, has 43 million
COUNTER_SUFFIX = "num_batches_tracked"
_COUNTER_CODE = "i8"
_FLOAT_CODES = ("f2", "f4", "f8")
_MAX_DIMENSIONS = 8
_NAME_TABLE_KEY = "StructuredToParameterName@@"  # Paddle's own parameter names: not needed
_BIG_PARAMETERS_KEY = "UnpackBigParamInfor@@"  # protocols 2 and 3: arrays over 1 GiB lie in slices

Tensors = dict[str, np.ndarray[Any, Any]]


def tensors_from_pdparams(path: Path) -> Tensors:
    """Name -> array of a Paddle state dict: float32, C order, native byte order, not to be written to.

    float16 and float64 are converted to float32; int64 passes for `num_batches_tracked` only. Pickle protocols 2 to 5,
    written by Python 2 or 3 with numpy 1 or 2. Raises `WeightsRejected` naming the file and the tensor, key or global.
    """
    try:
        with open_bounded(path) as file:
            size = os.fstat(file.fileno()).st_size
            state_dict = PickleMachine(BoundedStream(file, size)).run()
        return _tensors_from_values(state_dict)
    except MalformedPickleError as error:
        raise WeightsRejected(
            f"{path}: {error}. A .pdparams file is a pickled dict of name -> float array, as "
            "paddle.save(model.state_dict(), path) writes it; nothing of this file was executed. "
            "Download it again, or save it again from Paddle"
        ) from error


def open_bounded(path: Path) -> BinaryIO:
    """`path` opened for reading, once it is known to be a regular file of 1..`MAX_FILE_BYTES` bytes.

    Raises `WeightsRejected`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsRejected(f"{path} is not a regular file; expected a weight file")
        if status.st_size == 0:
            raise WeightsRejected(f"{path} is empty; expected a weight file. Download or save it again")
        if status.st_size > MAX_FILE_BYTES:
            raise WeightsRejected(
                f"{path} has {status.st_size} bytes, more than MAX_FILE_BYTES = {MAX_FILE_BYTES}; the largest model of "
                "this catalog needs 171 MB. Save the weights alone, without the optimizer's state"
            )
        return path.open("rb")
    except OSError as error:
        raise WeightsRejected(f"{path} cannot be read: {error.strerror or error}; expected a weight file") from error


def _tensors_from_values(state_dict: object) -> Tensors:
    if not isinstance(state_dict, dict):
        raise MalformedPickleError(f"its top level is of type {kind_of(state_dict)}; expected a dict")
    state_dict.pop(_NAME_TABLE_KEY, None)
    big_parameters = state_dict.pop(_BIG_PARAMETERS_KEY, {})
    tensors: Tensors = {}
    element_count = 0
    for name in list(state_dict):
        tensor = _array_from_value(name, state_dict.pop(name))  # popped, so that a text form is freed at once
        element_count += tensor.size
        if element_count > MAX_ELEMENTS:
            raise MalformedPickleError(
                f"its tensors have more than MAX_ELEMENTS = {MAX_ELEMENTS} numbers, counted up to {name!r}"
            )
        tensors[name] = _as_float32(tensor)
    return _with_slices_joined(tensors, big_parameters)


def _array_from_value(name: str, value: object) -> np.ndarray[Any, Any]:
    """The array behind the forms `ndarray.__reduce__` and `__reduce_ex__(5)` write, as a view of the file's bytes."""
    match value:
        case Call(Role.RECONSTRUCT, (Role.NDARRAY, (0,), code), (1, tuple(shape), dtype, bool(is_fortran), data)):
            if _bytes_from_value(name, code) != b"b":
                raise MalformedPickleError(f"tensor {name!r} is not pickled the way numpy does it")
            order = "F" if is_fortran else "C"
        case Call(Role.FROMBUFFER, (data, dtype, tuple(shape), ("C" | "F") as order), None):
            pass
        case Call():
            raise MalformedPickleError(f"tensor {name!r} is not pickled the way numpy does it")
        case _:
            raise MalformedPickleError(f"the value of {name!r} is of type {kind_of(value)}; expected a float array")
    return _array_from_parts(name, _dtype_from_value(name, dtype), shape, order, data)


def _array_from_parts(
    name: str, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Any, data: object
) -> np.ndarray[Any, Any]:
    if not _is_possible(shape):
        raise MalformedPickleError(
            f"tensor {name!r} has an impossible shape (at most {_MAX_DIMENSIONS} whole numbers from 1 on)"
        )
    buffer = _bytes_from_value(name, data)
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(buffer) != expected_bytes:
        raise MalformedPickleError(
            f"tensor {name!r} of shape {list(shape)} needs {expected_bytes} bytes and has {len(buffer)}"
        )
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _is_possible(shape: Sequence[object]) -> bool:
    return len(shape) <= _MAX_DIMENSIONS and all(
        isinstance(extent, int) and not isinstance(extent, bool) and 1 <= extent <= MAX_ELEMENTS for extent in shape
    )


def _dtype_from_value(name: str, value: object) -> np.dtype[Any]:
    match value:
        case Call(Role.DTYPE, (str(code), *_), (3, ("<" | ">") as byte_order, None, None, None, -1, -1, 0)):
            is_counter = code == _COUNTER_CODE and name.endswith(COUNTER_SUFFIX)
            if code in _FLOAT_CODES or is_counter:
                return np.dtype(byte_order + code)
            raise MalformedPickleError(
                f"tensor {name!r} has dtype {code[:40]!r}; expected one of {', '.join(_FLOAT_CODES)}"
            )
        case Call(Role.DTYPE, (str(code), *_), _):
            raise MalformedPickleError(
                f"tensor {name!r} has dtype {code[:40]!r} in an unknown form; expected a plain float"
            )
        case _:
            raise MalformedPickleError(f"tensor {name!r} has no dtype")


def _bytes_from_value(name: str, value: object) -> bytes | bytearray:
    """Bytes as written by Python 3 (protocol 3 on), by Python 3 at protocol 2 (text to encode), by Python 2 (text)."""
    match value:
        case bytes() | bytearray():
            return value
        case str(text) | Call(Role.ENCODE, (str(text), "latin1"), None):
            try:
                return text.encode("latin1")
            except UnicodeEncodeError as error:
                raise MalformedPickleError(f"the data of tensor {name!r} are text outside latin1") from error
        case Call(Role.ENCODE):
            raise MalformedPickleError(f"tensor {name!r} wants text encoded other than as latin1")
        case _:
            raise MalformedPickleError(f"the data of tensor {name!r} are of type {kind_of(value)}; expected bytes")


def _as_float32(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Native byte order, C order, floats as float32; overflow becomes infinite, which `load_weights` refuses."""
    wanted = np.dtype(np.float32 if tensor.dtype.kind == "f" else np.int64)
    with np.errstate(over="ignore"):
        return np.asarray(tensor, dtype=wanted, order="C")


def _with_slices_joined(tensors: Tensors, big_parameters: object) -> Tensors:
    if not isinstance(big_parameters, dict):
        raise MalformedPickleError(f"{_BIG_PARAMETERS_KEY!r} is of type {kind_of(big_parameters)}; expected a dict")
    for name, info in big_parameters.items():
        match info:
            case {"OriginShape": tuple(shape) | list(shape), "slices": list(parts)} if len(info) == 2:
                pass
            case _:
                raise MalformedPickleError(f"{_BIG_PARAMETERS_KEY!r} does not say how {name!r} is sliced")
        if not parts or not all(isinstance(part, str) and part in tensors for part in parts):
            raise MalformedPickleError(f"a slice of tensor {name!r} is missing")
        if name in tensors or len(set(parts)) != len(parts):
            raise MalformedPickleError(f"tensor {name!r} or one of its slices occurs twice")
        joined = np.concatenate([tensors.pop(part).ravel() for part in parts])
        if not _is_possible(shape) or math.prod(shape) != joined.size:
            raise MalformedPickleError(
                f"the slices of tensor {name!r} have {joined.size} numbers, which do not fill its shape"
            )
        tensors[name] = joined.reshape(tuple(shape))
    return tensors
