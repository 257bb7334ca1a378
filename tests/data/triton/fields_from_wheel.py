"""Print the messages and field names of Triton's model_config.proto, out of a tritonclient wheel. See README.md."""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2

_MODULE = "tritonclient/grpc/model_config_pb2.py"


def serialized_descriptor(source: bytes) -> bytes:
    """The bytes that a generated module hands to its descriptor pool; the module is not executed."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = (each for each in calls if getattr(each.func, "attr", None) == "AddSerializedFile")
    return ast.literal_eval(call.args[0])


def fields_of(messages: Iterable[descriptor_pb2.DescriptorProto], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """(full name, field names) of every message and of those nested in it, but for the entries of maps."""
    for message in messages:
        if message.options.map_entry:
            continue
        name = f"{prefix}.{message.name}"
        yield name, sorted(field.name for field in message.field)
        yield from fields_of(message.nested_type, name)


def main(wheel: str) -> None:
    """Print one message a line."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(_MODULE))
        file = descriptor_pb2.FileDescriptorProto.FromString(serialized_descriptor(archive.read(path)))
    lines = [
        f"  {json.dumps(name)}: {json.dumps(fields)}"
        for name, fields in sorted(fields_of(file.message_type, file.package))
    ]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
