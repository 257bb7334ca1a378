"""`.pdparams` files: every way numpy and Paddle have written them is read, and nothing else is, or is executed."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import WeightsRejected
from builder.pdparams import MAX_ELEMENTS, MAX_FILE_BYTES, tensors_from_pdparams

_NAMES = {"StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "conv.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "bn._mean": rng.standard_normal(5).astype(np.float32),
    }


def _written(folder: Path, content: object, protocol: int = 4) -> Path:
    return _stored(folder, pickle.dumps(content, protocol))


def _stored(folder: Path, data: bytes) -> Path:
    path = folder / "model.pdparams"
    path.write_bytes(data)
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(WeightsRejected) as caught:
        tensors_from_pdparams(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def _as_numpy_2_writes(data: bytes) -> bytes:
    """The same pickle with numpy 2's module name; a protocol 4 frame becomes one byte longer."""
    if data[1] < 4:
        return data.replace(b"numpy.core.multiarray\n", b"numpy._core.multiarray\n")
    assert data[2:3] == b"\x95"
    frame_bytes = int.from_bytes(data[3:11], "little") + 1
    body = data[11:].replace(b"\x8c\x15numpy.core.multiarray", b"\x8c\x16numpy._core.multiarray")
    return data[:3] + frame_bytes.to_bytes(8, "little") + body


class RunsACommand:
    """What an attacker writes: unpickling it runs a shell command that creates `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Calls:
    """Unpickling it calls `function` with `args`."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_paddle_or_numpy_writes_is_read(tmp_path: Path, protocol: int) -> None:
    """Names, shapes and values come back as they were saved, without Paddle's own name table."""
    tensors = tensors_from_pdparams(_written(tmp_path, _arrays() | _NAMES, protocol))
    assert list(tensors) == list(_arrays())
    for name, array in _arrays().items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == np.float32


@pytest.mark.parametrize("protocol", [2, 4])
def test_files_written_by_numpy_2_are_read(tmp_path: Path, protocol: int) -> None:
    """numpy 2 moved `_reconstruct` to `numpy._core`; the spelling of the writer does not matter."""
    data = _as_numpy_2_writes(pickle.dumps(_arrays(), protocol))
    assert b"numpy._core" in data
    np.testing.assert_array_equal(pickle.loads(data)["bn._mean"], _arrays()["bn._mean"])  # it is a valid pickle
    np.testing.assert_array_equal(tensors_from_pdparams(_stored(tmp_path, data))["bn._mean"], _arrays()["bn._mean"])


def test_files_written_by_python_2_are_read(tmp_path: Path) -> None:
    """Python 2 wrote array data as byte strings, which Python 3 sees as latin-1 text."""
    values = np.array([1.5, -2.0], np.float32)
    minus_one = b"J\xff\xff\xff\xff"
    data = (
        b"\x80\x02}U\x01a"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01\x8a\x01\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
        + (minus_one * 2)
        + b"K\x00tb\x89U\x08"
        + values.tobytes()
        + b"tbs."
    )
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1")["a"], values)  # it is a valid pickle
    np.testing.assert_array_equal(tensors_from_pdparams(_stored(tmp_path, data))["a"], values)


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_floats_of_other_widths_and_byte_orders_become_native_float32(tmp_path: Path, dtype: str) -> None:
    """The conversion is to float32 in native order, and to nothing else."""
    array = np.array([[0.5, -1.25], [3.0, 4.0]])
    tensor = tensors_from_pdparams(_written(tmp_path, {"w": array.astype(dtype)}))["w"]
    assert tensor.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(tensor, array)


def test_a_fortran_ordered_array_keeps_its_values(tmp_path: Path) -> None:
    """The order in memory is the writer's affair: C order comes out."""
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    tensor = tensors_from_pdparams(_written(tmp_path, {"w": array}))["w"]
    np.testing.assert_array_equal(tensor, array)
    assert tensor.flags.c_contiguous


def test_slices_of_a_big_parameter_are_joined(tmp_path: Path) -> None:
    """Protocols 2 and 3 cut an array of more than 1 GiB into flat slices, with a note of its shape."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    parts = {"w@@.0": array.ravel()[:10], "w@@.1": array.ravel()[10:]}
    note = {"UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3, 4), "slices": ["w@@.0", "w@@.1"]}}}
    tensors = tensors_from_pdparams(_written(tmp_path, parts | note, 2))
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(tensors["w"], array)


@pytest.mark.parametrize(
    "info",
    [
        {"OriginShape": (2, 3, 4), "slices": ["w@@.0", "w@@.7"]},
        {"OriginShape": (2, 3, 5), "slices": ["w@@.0", "w@@.1"]},
        {"OriginShape": (2, 3, 4), "slices": ["w@@.0", "w@@.0"]},
        {"OriginShape": (24,) + (1,) * 100, "slices": ["w@@.0", "w@@.1"]},
        {"OriginShape": (-24,), "slices": ["w@@.0", "w@@.1"]},
        {"slices": ["w@@.0", "w@@.1"]},
        7,
    ],
)
def test_slices_that_do_not_fit_are_refused(tmp_path: Path, info: object) -> None:
    """A missing, repeated or ill-sized slice names the tensor."""
    parts = {"w@@.0": np.zeros(10, np.float32), "w@@.1": np.zeros(14, np.float32)}
    assert "'w'" in _refusal(_written(tmp_path, parts | {"UnpackBigParamInfor@@": {"w": info}}, 2))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("place", ["top", "value", "object array", "name table"])
def test_an_evil_pickle_is_refused_by_the_name_of_its_global_and_runs_nothing(
    tmp_path: Path, protocol: int, place: str
) -> None:
    """Wherever the payload sits, the refusal names what it wanted, and the command did not run."""
    marker = tmp_path / "executed"
    evil = RunsACommand(marker)
    content = {
        "top": evil,
        "value": _arrays() | {"w": evil},
        "object array": _arrays() | {"w": np.array([evil], dtype=object)},
        "name table": _arrays() | {"StructuredToParameterName@@": evil},
    }[place]
    message = _refusal(_written(tmp_path, content, protocol))
    assert f"{os.name}.system" in message
    assert not marker.exists()
    pickle.loads((tmp_path / "model.pdparams").read_bytes())  # the proof that the payload works
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (eval, ("1 + 1",), "eval"),
        (exec, ("pass",), "exec"),
        (getattr, ((), "__class__"), "getattr"),
        (subprocess.Popen, (["true"],), "Popen"),
        (np.load, ("x",), "load"),
        (np.fromfile, ("x",), "fromfile"),
        (OrderedDict, (), "OrderedDict"),
        (tuple, ([1],), "tuple"),
    ],
)
def test_no_global_outside_the_table_is_accepted(
    tmp_path: Path, protocol: int, function: object, args: tuple[object, ...], name: str
) -> None:
    """Paddle writes raw tensors as a call of `eval`, and numpy has functions that read files: neither gets by."""
    assert name in _refusal(_written(tmp_path, {"w": Calls(function, *args)}, protocol))


def test_text_is_decoded_as_latin1_only(tmp_path: Path) -> None:
    """`_codecs.encode` with another codec could reach Python code that a codec registered."""
    data = pickle.dumps(_arrays(), 2)
    assert data.count(b"latin1")
    assert "latin1" in _refusal(_stored(tmp_path, data.replace(b"latin1", b"rot_13")))


@pytest.mark.parametrize("kept_share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_and_says_so(tmp_path: Path, kept_share: float) -> None:
    """A broken download is told from a wrong file."""
    data = pickle.dumps(_arrays(), 4)
    path = _stored(tmp_path, data[: int(len(data) * kept_share)])
    message = _refusal(path)
    assert "empty" in message if kept_share == 0 else "truncated" in message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<!DOCTYPE html><html>Not found</html>", "<!DOCTYPE html>"),
        (b"PK\x03\x04 a torch archive", "PK"),
        (b"\x80", "not a pickle"),
        (pickle.dumps({"w": 1}, 0), "not a pickle of protocol 2 to 5"),
        (pickle.dumps([np.zeros(2)], 4), "list"),
        (pickle.dumps(None, 4), "NoneType"),
        (pickle.dumps({7: np.zeros(2)}, 4), "type int"),
        (pickle.dumps({("a",): np.zeros(2)}, 4), "type tuple"),
        (pickle.dumps({"x" * 1000: np.zeros(2)}, 4), "1000 characters"),
        (pickle.dumps({"epoch": 3}, 4), "'epoch'"),
        (pickle.dumps({"lr": 0.5}, 4), "'lr'"),
        (pickle.dumps({"w": [1.0, 2.0]}, 4), "'w'"),
        (pickle.dumps({"w": {"v": np.zeros(2)}}, 4), "'w'"),
        (pickle.dumps({"w": np.zeros(2, np.int32)}, 4), "'i4'"),
        (pickle.dumps({"w": np.zeros(2, np.int64)}, 4), "'i8'"),
        (pickle.dumps({"w": np.array([None])}, 4), "'O8'"),
        (pickle.dumps({"w": np.zeros(2, [("a", "f4")])}, 4), "'V4'"),
        (pickle.dumps({"w": np.zeros(2, complex)}, 4), "'c16'"),
        (pickle.dumps({"w": np.zeros((0, 3), np.float32)}, 4), "impossible shape"),
        (pickle.dumps({"w": np.float32(1)}, 4), "numpy.core.multiarray.scalar"),
        (pickle.dumps({"w": np.zeros(2)}, 4) + b"more", "4 bytes follow"),
        (b"\x80\x02(cos\nsystem\nU\x04trueo.", "os.system"),
        (b"\x80\x02(}o.", "opcode OBJ"),
        (b"\x80\x02(U\x04trueios\nsystem\n.", "opcode INST"),
        (b"\x80\x02cbuiltins\nobject\n)\x81.", "builtins.object"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02\xff.", "unknown"),
        (b"\x80\x02cos", "truncated"),
        (b"\x80\x02R.", "malformed"),
        (b"\x80\x02}}s.", "malformed"),
        (b"\x80\x02h\x05.", "malformed"),
        (b"\x80\x02}(K\x01u.", "malformed"),
        (b"\x80\x02}}b.", "malformed"),
        (b"\x80\x02]]R.", "malformed"),
        (b"\x80\x02}(U\x01aK\x01U\x01aK\x02u.", "'a' occurs twice"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name_of_what_is_wrong(tmp_path: Path, data: bytes, expected: str) -> None:
    """HTML, other formats, other content, opcodes that no weight file has: the message says which."""
    assert expected in _refusal(_stored(tmp_path, data))


def test_persistent_ids_are_refused(tmp_path: Path) -> None:
    """A reference to something outside the file has no place in it."""

    class Refers(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "outside" if isinstance(obj, np.ndarray) else None

    buffer = io.BytesIO()
    Refers(buffer, 4).dump(_arrays())
    assert "BINPERSID" in _refusal(_stored(tmp_path, buffer.getvalue()))


def _with_shape(shape: bytes) -> bytes:
    data = pickle.dumps({"w": np.zeros((3, 5), np.float32)}, 2)
    assert data.count(b"K\x03K\x05\x86") == 1
    return data.replace(b"K\x03K\x05\x86", shape)


@pytest.mark.parametrize(
    "data",
    [
        _with_shape(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),  # 2^62 numbers
        _with_shape(b"K\x00J\xff\xff\xff\x7f\x86"),
        _with_shape(b"J\xff\xff\xff\xffJ\xf1\xff\xff\xff\x86"),  # -1 x -15 is 15
        _with_shape(b"\x88K\x0f\x86"),  # True x 15
        _with_shape(b"(" + b"K\x01" * 40 + b"K\x0ft"),
        b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"abc",  # BINBYTES8 claims 4 EiB
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"abc",  # BYTEARRAY8 claims 1 TiB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the C unpickler makes its memo as long as the index
        b"\x80\x02" + b"}" * 200_001,  # more opcodes than any weight file
        b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"Ns.",  # a key nested 50,000 deep: hashing it would end the stack
    ],
)
def test_what_a_file_claims_allocates_nothing(tmp_path: Path, data: bytes) -> None:
    """Shapes, lengths, indices and depths are only believed as far as the file has bytes for them."""
    path = _stored(tmp_path, data)
    tracemalloc.start()
    _refusal(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100e6


def test_one_array_under_many_names_cannot_pass_the_limit_of_elements(tmp_path: Path) -> None:
    """A small file may refer to the same bytes again and again; the numbers are counted each time."""
    array = np.zeros(1 << 20, np.float32)
    path = _written(tmp_path, {f"w{index}": array for index in range(MAX_ELEMENTS // array.size + 1)})
    assert path.stat().st_size < 5e6
    assert "MAX_ELEMENTS" in _refusal(path)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    """The size is looked at before the content is."""
    path = tmp_path / "model.pdparams"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    assert "MAX_FILE_BYTES" in _refusal(path)


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe would wait for ever, a folder has no content, a missing file has neither."""
    pipe = tmp_path / "pipe.pdparams"
    os.mkfifo(pipe)
    assert "not a regular file" in _refusal(pipe)
    assert "not a regular file" in _refusal(tmp_path)
    assert "No such file" in _refusal(tmp_path / "absent.pdparams")


_CONTENTS = [pickle.dumps(_arrays() | _NAMES, protocol) for protocol in (2, 4, 5)]
_mutations = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(content=st.sampled_from(_CONTENTS), mutations=_mutations, cut=st.integers(0, 3))
def test_a_mutated_file_is_refused_or_still_holds_the_same_shapes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, mutations: list[tuple[int, int]], cut: int
) -> None:
    """Whatever bytes change, the outcome is `WeightsRejected` or float32 arrays that the file has bytes for."""
    data = bytearray(content[: len(content) - cut])
    for position, value in mutations:
        data[position % len(data)] = value
    path = _stored(tmp_path_factory.getbasetemp(), bytes(data))
    try:
        tensors = tensors_from_pdparams(path)
    except WeightsRejected:
        return
    sizes = {array.size for array in _arrays().values()}
    for array in tensors.values():
        assert array.dtype == np.float32
        assert array.size in sizes


@settings(derandomize=True, max_examples=200, deadline=None)
@given(mutations=_mutations)
def test_a_mutated_evil_file_never_runs(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[int, int]]
) -> None:
    """No change of bytes opens a way to the payload."""
    folder = tmp_path_factory.getbasetemp()
    marker = folder / "executed"
    data = bytearray(pickle.dumps(_arrays() | {"w": RunsACommand(marker)}, 2))
    for position, value in mutations:
        data[position % len(data)] = value
    with pytest.raises(WeightsRejected):
        tensors_from_pdparams(_stored(folder, bytes(data)))
    assert not marker.exists()
