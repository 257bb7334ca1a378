"""Weight files of three formats to tensors, and tensors to a module: strict, or not at all.

    .pdparams                pdparams.py: read as data, nothing executed
    .safetensors             safetensors
    .pt .pth .bin            torch.load(weights_only=True), no fallback

`tensors_from_file` knows files, `load_weights` knows models. Everything that is wrong ends in `WeightsRejected`.
"""

from __future__ import annotations

import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from builder.errors import WeightsRejected
from builder.pdparams import (
    COUNTER_SUFFIX,
    MAX_ELEMENTS,
    MAX_FILE_BYTES,
    Tensors,
    open_bounded,
    tensors_from_pdparams,
)

if TYPE_CHECKING:
    from builder.architectures import Classifier
    from builder.catalog import ModelSpec

_MAX_SAFETENSORS_HEADER_BYTES = 10 << 20  # about 100 bytes a tensor
_WRAPPERS = ("state_dict", "model")
_NAMES_SHOWN = 5
_ZIP_MAGIC = b"PK\x03\x04"
_OLD_TORCH_MAGIC = bytes.fromhex(
    "80028a0a6cfc9c46f9206aa850192e"
)  # torch.save before 1.6: a pickle of this number first

# InceptionV3's official file exists in two generations of names. These prefixes and the norm's name are all that
# changed between PaddleClas 2.1 and 2.2 ("nception_b_1" is spelt so there).
_LEGACY_INCEPTION_V3_PREFIXES = {
    old: f"inception_block_list.{index}."
    for index, old in enumerate(
        (
            *("inception_a_1.", "inception_a_2.", "inception_a_3.", "nception_b_1."),
            *("inception_c_1.", "inception_c_2.", "inception_c_3.", "inception_c_4.", "inception_d_1."),
            *("inception_e_1.", "inception_e_2."),
        )
    )
} | {"out.": "fc."}

_STATISTICS = {"._mean": ".running_mean", "._variance": ".running_var"}  # Paddle's suffixes and PyTorch's
_PADDLE_GOOGLENET_HIDDEN_SHAPE = (1152, 1024)  # in x out


def tensors_from_file(path: Path) -> Tensors:
    """Name -> array of a weight file: float32 in C order, native byte order; do not write to them.

    The suffix says which reader is meant, the content has to agree. Other floats are converted to float32; integers
    pass for `num_batches_tracked` only. A PyTorch file may hold its tensors one level down, under "state_dict" or
    "model". Nothing of the file is executed, and no more than `MAX_FILE_BYTES` and `MAX_ELEMENTS` are read. Raises
    `WeightsRejected` naming the file and the tensor, key or global.
    """
    suffix = path.suffix.lower()
    if suffix == ".pdparams":
        return tensors_from_pdparams(path)
    if suffix == ".safetensors":
        return _tensors_from_safetensors(path)
    if suffix in (".pt", ".pth", ".bin"):
        return _tensors_from_torch_file(path)
    raise WeightsRejected(
        f"{path}: the suffix {path.suffix!r} says no format; expected .pdparams, .safetensors, .pt, .pth or .bin. "
        "Rename the file to say what it is"
    )


def _tensors_from_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    with open_bounded(path) as file:
        beginning = file.read(16)
    header_bytes = struct.unpack("<Q", beginning[:8])[0] if len(beginning) == 16 else 0
    if not 0 < header_bytes <= _MAX_SAFETENSORS_HEADER_BYTES or beginning[8:9] != b"{":
        raise WeightsRejected(f"{path} is not a safetensors file: it begins with {beginning!r}; save it again")
    try:
        with safe_open(path, framework="pt") as archive:
            named = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsRejected(f"{path} is not a whole safetensors file: {error}; download or save it again") from error
    return _arrays_from_torch(path, named)


def _tensors_from_torch_file(path: Path) -> Tensors:
    """What `torch.save` wrote. A plain pickle under this suffix is read as data: torch would only say "invalid"."""
    import torch

    with open_bounded(path) as file:
        beginning = file.read(len(_OLD_TORCH_MAGIC))
        if beginning.startswith(_ZIP_MAGIC):
            _check_archive(path, file)
        elif beginning.startswith(b"\x80") and beginning != _OLD_TORCH_MAGIC:
            return tensors_from_pdparams(path)
        elif beginning != _OLD_TORCH_MAGIC:
            raise WeightsRejected(
                f"{path} is not a PyTorch file: it begins with {beginning!r}; download or save it again"
            )
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the file's pickle protocol: the outcome says enough
                content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever a broken file makes it hit
            raise WeightsRejected(
                f"{path} does not load with weights_only=True: {_torch_reason(error)}. Expected what "
                "torch.save(model.state_dict(), path) writes; nothing of this file was executed. Save it again"
            ) from error
    return _arrays_from_torch(path, _unwrapped(path, content))


def _check_archive(path: Path, file: BinaryIO) -> None:
    """A zip whose entries are stored as they are and no larger together than the file may be: no room for a bomb."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise WeightsRejected(f"{path} is a damaged PyTorch archive: {error}; download or save it again") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsRejected(f"{path} is a compressed archive; torch.save does not compress. Save it again")
    if sum(entry.file_size for entry in entries) > MAX_FILE_BYTES:
        raise WeightsRejected(f"{path} unpacks to more than MAX_FILE_BYTES = {MAX_FILE_BYTES}; save the weights alone")


def _torch_reason(error: Exception) -> str:
    """Torch's reason without its advice, which is to turn the protection off."""
    text = str(error)
    forbidden = re.search(r"GLOBAL ([\w.]+)", text)
    if forbidden:
        return f"it asks for the global {forbidden[1].rstrip('.')!r}"
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    return detail[1] if detail else f"{type(error).__name__}: {text.splitlines()[0] if text else 'it ends too early'}"


def _unwrapped(path: Path, content: object) -> Mapping[Any, object]:
    """The state dict: the content itself, or what it holds under one of `_WRAPPERS`."""
    import torch

    if not isinstance(content, Mapping):
        raise WeightsRejected(f"{path}: its top level is of type {type(content).__name__}; expected a dict of tensors")
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    if len(inner) > 1:
        raise WeightsRejected(f"{path} has both {' and '.join(map(repr, _WRAPPERS))}; save one of them alone")
    return inner[0] if inner else content


def _arrays_from_torch(path: Path, named: Mapping[Any, object]) -> Tensors:
    import torch

    arrays: Tensors = {}
    element_count = 0
    for name, tensor in named.items():
        if not isinstance(name, str):
            raise WeightsRejected(f"{path}: a key is of type {type(name).__name__}; expected text")
        if not isinstance(tensor, torch.Tensor):
            raise WeightsRejected(
                f"{path}: the value of {name!r} is of type {type(tensor).__name__}; expected a tensor"
            )
        is_counter = tensor.dtype == torch.int64 and name.endswith(COUNTER_SUFFIX)
        if tensor.layout != torch.strided or not (tensor.dtype.is_floating_point or is_counter):
            kind = f"{tensor.layout}, {tensor.dtype}"
            raise WeightsRejected(f"{path}: tensor {name!r} is of kind {kind}; expected a dense float tensor")
        element_count += tensor.numel()  # claimed, not stored: an expanded tensor is one number of any shape
        if element_count > MAX_ELEMENTS:
            raise WeightsRejected(f"{path}: more than MAX_ELEMENTS = {MAX_ELEMENTS} numbers, counted up to {name!r}")
        arrays[name] = tensor.detach().to(torch.int64 if is_counter else torch.float32).contiguous().numpy()
    return arrays


def load_weights(spec: ModelSpec, tensors: Tensors, *, source: str) -> Classifier:
    """The architecture of `spec` with `tensors` in it, in eval mode and frozen; the head's bias decides the classes.

    Takes Paddle's layout (linear weights are in x out) and PyTorch's, and both generations of InceptionV3's names.
    Strict: a missing, unexpected, misshapen or non-finite tensor or a negative variance raises `WeightsRejected`, which
    names `source` and the tensor. One thing may be left out: GoogLeNet's two auxiliary heads, both of them whole and in
    PyTorch's layout (a state dict saved after `without_auxiliary_heads`); the module then has none either.
    """
    import torch

    from builder.architectures import module_from_spec, without_auxiliary_heads

    given = _Given(spec, tensors, source)
    with torch.device("meta"):  # names and shapes only: nothing is allocated before the file is known to fit
        module = module_from_spec(spec)
        bias = given.arrays.get(f"{module.head}.bias")
        if bias is not None and bias.ndim == 1 and bias.size not in (0, spec.classes):
            module = module_from_spec(spec.with_classes(bias.size))
    auxiliary = tuple(f"{name}." for name in module.auxiliary_heads)
    if auxiliary and not given.is_paddle_layout and not any(name.startswith(auxiliary) for name in given.arrays):
        without_auxiliary_heads(module)
    given.check_against(module)
    module.to_empty(device="cpu")
    for name, target in module.state_dict().items():
        array = given.arrays.get(name)
        if array is None:
            target.zero_()  # a counter of training batches, which Paddle does not keep
        else:
            np.copyto(target.numpy(), array)  # into the module's memory: no second copy of the weights
    return module.eval().requires_grad_(False)


class _Given:
    """A file's tensors under PyTorch's names, which remember what the file calls them."""

    def __init__(self, spec: ModelSpec, tensors: Tensors, source: str) -> None:
        self.arrays: Tensors = {}
        self._spec = spec
        self._source = source
        self._file_names: dict[str, str] = {}
        self.is_paddle_layout = self._find_layout(tensors)
        for file_name, array in tensors.items():
            name = self._current_name(file_name)
            if name in self.arrays:
                raise self._rejected(f"{file_name!r} and {self._file_names[name]!r} are the same tensor")
            self.arrays[name] = array
            self._file_names[name] = file_name

    def check_against(self, module: Classifier) -> None:
        """Compare with what `module` needs, and turn Paddle's linear weights into PyTorch's."""
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        self._check_names(expected)
        for name, shape in expected.items():
            if name not in self.arrays:
                continue
            if self.is_paddle_layout and len(shape) == 2:  # only linear weights have two dimensions
                self._check_array(name, shape[::-1])
                self.arrays[name] = self.arrays[name].T
            else:
                self._check_array(name, shape)

    def _find_layout(self, tensors: Tensors) -> bool:
        is_paddle = any(name.endswith(tuple(_STATISTICS)) for name in tensors)
        is_torch = any(name.endswith(tuple(_STATISTICS.values())) for name in tensors)
        if is_paddle and is_torch:
            raise self._rejected("its batch normalisation statistics have Paddle's names in part and PyTorch's in part")
        if is_paddle or is_torch:
            return is_paddle
        hidden = tensors.get("_fc_o1.weight")  # GoogLeNet has no batch normalisation
        return hidden is not None and hidden.shape == _PADDLE_GOOGLENET_HIDDEN_SHAPE

    def _current_name(self, name: str) -> str:
        if self._spec.family == "inception_v3":
            for old, new in _LEGACY_INCEPTION_V3_PREFIXES.items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
            name = name.replace(".batch_norm.", ".bn.")
        for paddle_suffix, torch_suffix in _STATISTICS.items():
            if name.endswith(paddle_suffix):
                return name.removesuffix(paddle_suffix) + torch_suffix
        return name

    def _check_names(self, expected: Iterable[str]) -> None:
        needed = [name for name in expected if not name.endswith(COUNTER_SUFFIX)]
        missing = [self._paddle_name(name) for name in needed if name not in self.arrays]
        unexpected = [self._file_names[name] for name in self.arrays.keys() - set(expected)]
        if not missing and not unexpected:
            return
        faults = [
            f"{len(names)} {kind}: {_some(names)}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise self._rejected(f"of its {len(self.arrays)} tensors, {'; '.join(faults)}")

    def _paddle_name(self, name: str) -> str:
        """What the file would call a tensor that it lacks."""
        if self.is_paddle_layout:
            for paddle_suffix, torch_suffix in _STATISTICS.items():
                if name.endswith(torch_suffix):
                    return name.removesuffix(torch_suffix) + paddle_suffix
        return name

    def _check_array(self, name: str, shape: tuple[int, ...]) -> None:
        array, file_name = self.arrays[name], self._file_names[name]
        if array.shape != shape:
            raise self._rejected(f"tensor {file_name!r} has shape {list(array.shape)} and not {list(shape)}")
        if not np.isfinite(array).all():
            raise self._rejected(f"tensor {file_name!r} has {np.sum(~np.isfinite(array))} values that are not finite")
        if name.endswith(".running_var") and array.min() < 0:
            raise self._rejected(f"tensor {file_name!r} has a negative variance, {array.min()}")

    def _rejected(self, what: str) -> WeightsRejected:
        return WeightsRejected(
            f"{self._source} does not fit {self._spec.name}: {what}. Expected the state dict of PaddleClas's "
            f"{self._spec.name}, in Paddle's or PyTorch's layout. Check that the file belongs to this model"
        )


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(sorted(names)[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
