"""A pickle interpreted as data: a machine that builds plain values and calls nothing.

A pickle may name any Python function and have it called. `PickleMachine` knows the two dozen opcodes that a dict of
numpy arrays needs, refuses every other one, and keeps each call that the file asks for as a note (`Call`). The globals
that a note may name are one literal table. A length that the file merely claims allocates nothing.
"""

from __future__ import annotations

import enum
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

_MAX_OPCODES = 200_000  # about 30 a tensor; InceptionV4 has 747 tensors
_MAX_NAME_CHARS = 200  # of a key or a global; the longest real key has 71
_SUPPORTED_PROTOCOLS = range(2, 6)


class Role(enum.Enum):
    """What a global of the file may stand for. There are no others."""

    RECONSTRUCT = "_reconstruct"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"


# Exact pairs, never whole modules: numpy has callables that read files. `_core` is numpy 2, `core` numpy 1.
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): Role.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Role.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): Role.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): Role.FROMBUFFER,
    ("numpy", "ndarray"): Role.NDARRAY,
    ("numpy", "dtype"): Role.DTYPE,
    ("_codecs", "encode"): Role.ENCODE,
}


@dataclass(eq=False, slots=True)
class Call:
    """A call that the file asks for: noted, not made. `state` is what it wants set on the result."""

    role: Role
    args: tuple[object, ...]
    state: object = None


class MalformedPickleError(Exception):
    """What is wrong with the stream, without the file's name: the reader that knows it makes the user's message."""


class BoundedStream:
    """The file as pickletools' argument readers want it; a read never asks for more than what is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    @property
    def left(self) -> int:
        return self._left

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(_MAX_NAME_CHARS)
        self._left -= len(data)
        return data


class PickleMachine:
    """A pickle machine that can only build None, numbers, text, bytes, tuples, lists, dicts and `Call` notes."""

    def __init__(self, stream: BoundedStream) -> None:
        self._stream = stream
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        """The one value that the stream leaves behind."""
        self._check_beginning()
        for _ in range(_MAX_OPCODES):
            code = self._stream.read(1)
            if not code:
                raise MalformedPickleError("it is truncated: the pickle has no end")
            if code == b".":
                return self._result()
            self._step(code)
        raise MalformedPickleError(f"it has more than {_MAX_OPCODES} pickle opcodes")

    def _check_beginning(self) -> None:
        beginning = self._stream.read(2)
        if len(beginning) < 2 or beginning[0] != 0x80 or beginning[1] not in _SUPPORTED_PROTOCOLS:
            beginning += self._stream.read(14)
            raise MalformedPickleError(f"it is not a pickle of protocol 2 to 5: it begins with {beginning!r}")

    def _result(self) -> object:
        if len(self._stack) != 1 or self._marks:
            raise MalformedPickleError("it is malformed: the pickle's stack does not hold exactly one value at its end")
        if self._stream.left:
            raise MalformedPickleError(f"{self._stream.left} bytes follow the end of the pickle")
        return self._stack.pop()

    def _step(self, code: bytes) -> None:
        opcode = _OPCODES.get(code)
        if opcode is None:
            name = next((op.name for op in pickletools.opcodes if op.code.encode("latin-1") == code), "unknown")
            raise MalformedPickleError(f"the pickle opcode {name} ({code!r}) has no place in a weight file")
        argument = None
        if opcode.arg is not None and opcode.name != "GLOBAL":  # GLOBAL's reader interprets escapes: `_global` reads
            try:
                argument = opcode.arg.reader(self._stream)  # type: ignore[arg-type]  # read() is all that it uses
            except ValueError as error:
                raise MalformedPickleError(f"it is truncated or malformed: {error}") from error
        _HANDLERS[opcode.name](self, argument)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise MalformedPickleError("it is malformed: the pickle takes a value that is not there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise MalformedPickleError("it is malformed: the pickle closes a group that it did not open")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _put(self, index: int) -> None:
        value = self._pop()
        self._memo[index] = value
        self._push(value)

    def _memoize(self, _: None) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise MalformedPickleError(f"it is malformed: the pickle refers to value {index}, which is not there")
        self._push(self._memo[index])

    def _tuple_to_mark(self, _: None) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _tuple_of(self, count: int) -> None:
        self._push(tuple(reversed([self._pop() for _ in range(count)])))

    def _append(self, values: Iterable[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise MalformedPickleError("it is malformed: the pickle appends to something that is not a list")
        target.extend(values)
        self._push(target)

    def _set_items(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedPickleError("it is malformed: the pickle sets a key of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise MalformedPickleError(f"a key is of type {kind_of(key)}; expected text")
            if len(key) > _MAX_NAME_CHARS:
                raise MalformedPickleError(f"a key has {len(key)} characters; expected at most {_MAX_NAME_CHARS}")
            if key in target:
                raise MalformedPickleError(f"the key {key!r} occurs twice")
            target[key] = value
        self._push(target)

    def _set_item(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _global(self, _: None) -> None:
        lines = self._stream.readline(), self._stream.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise MalformedPickleError("it is truncated or malformed: a global has no end")
        self._push_global(*(line[:-1].decode("utf-8", "backslashreplace") for line in lines))

    def _stack_global(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise MalformedPickleError("it is malformed: a global is not named by text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        role = _GLOBALS.get((module, name))
        if role is None:
            raise MalformedPickleError(
                f"it asks for the global {f'{module}.{name}'[:_MAX_NAME_CHARS]!r}, which no weight file needs"
            )
        self._push(role)

    def _reduce(self, _: None) -> None:
        args, role = self._pop(), self._pop()
        if not isinstance(role, Role) or not isinstance(args, tuple):
            raise MalformedPickleError(f"it is malformed: the pickle calls a value of type {kind_of(role)}")
        self._push(Call(role, args))

    def _build(self, _: None) -> None:
        state, call = self._pop(), self._pop()
        if not isinstance(call, Call) or call.state is not None:
            raise MalformedPickleError(f"it is malformed: the pickle sets the state of a value of type {kind_of(call)}")
        call.state = state
        self._push(call)


_Handler = Callable[[PickleMachine, Any], None]
_HANDLERS: dict[str, _Handler] = {
    "FRAME": lambda machine, length: None,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "MARK": PickleMachine._push_mark,
    "TUPLE": PickleMachine._tuple_to_mark,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": PickleMachine._set_item,
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "MEMOIZE": PickleMachine._memoize,
    "GLOBAL": PickleMachine._global,
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": PickleMachine._reduce,
    "BUILD": PickleMachine._build,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), PickleMachine._put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), PickleMachine._get),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), PickleMachine._push),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), PickleMachine._push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), PickleMachine._push),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), PickleMachine._push),  # Python 2's bytes, read as latin-1
}
_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes if op.name in _HANDLERS}


def kind_of(value: object) -> str:
    """What to call `value` in a message."""
    return {Call: "array or dtype", Role: "global"}.get(type(value), type(value).__name__)
