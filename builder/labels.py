"""The names of a head's classes: PaddleClas's ImageNet-1k list, or a file of the user's."""

from __future__ import annotations

import re
import unicodedata
from importlib import resources
from pathlib import Path

from builder.errors import LabelsRejected

IMAGENET_CLASSES = 1000
_MAX_FILE_BYTES = 4 << 20
_INDEXED_LINE = re.compile(r"(\d+)\s+(\S.*)")


def labels_for(classes: int, path: Path | None = None) -> list[str]:
    """One label a class, in the head's order.

    `path` is UTF-8 with one label a line; where every line begins with its own index (0, 1, 2, ... as in PaddleClas's
    lists), the indices are taken off. Without `path`, 1000 classes have the ImageNet-1k names of PaddleClas. Labels
    may repeat (ImageNet has two cranes). Raises `LabelsRejected`.
    """
    if path is not None:
        return _labels_from_file(path, classes)
    if classes != IMAGENET_CLASSES:
        raise LabelsRejected(
            f"the head has {classes} classes, and only the {IMAGENET_CLASSES} of ImageNet-1k have names here; "
            f"give --labels FILE with {classes} lines"
        )
    text = resources.files("builder").joinpath("data/imagenet1k_labels.txt").read_text(encoding="utf-8")
    return text.splitlines()


def _labels_from_file(path: Path, classes: int) -> list[str]:
    lines = [line.strip() for line in _text_from_file(path).replace("\r\n", "\n").split("\n")]
    if lines[-1] == "":
        del lines[-1]  # what follows the last line's end
    for number, line in enumerate(lines, start=1):
        if not line:
            raise LabelsRejected(f"{path}, line {number} is blank; expected a label on each of {classes} lines")
        if any(unicodedata.category(character) == "Cc" for character in line):
            raise LabelsRejected(f"{path}, line {number} has a control character: {line[:60]!r}; expected plain text")
    if len(lines) != classes:
        raise LabelsRejected(
            f"{path} has {len(lines)} labels and the head has {classes} classes; give one label a line for each class, "
            "in the order of training"
        )
    return _without_indices(lines)


def _text_from_file(path: Path) -> str:
    try:
        if not path.is_file():
            raise LabelsRejected(f"--labels {path}: no such file; expected a text file with one label a line")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise LabelsRejected(f"{path} has more than {_MAX_FILE_BYTES} bytes; expected one label a line")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelsRejected(f"{path} cannot be read: {error.strerror}; expected one label a line") from error
    except UnicodeDecodeError as error:
        raise LabelsRejected(f"{path} is not UTF-8 text (byte {error.start}); expected one label a line") from error


def _without_indices(lines: list[str]) -> list[str]:
    """Take the indices off where all lines have theirs; otherwise a leading number belongs to the label."""
    matches = [_INDEXED_LINE.fullmatch(line) for line in lines]
    if all(match and match[1] == str(index) for index, match in enumerate(matches)):
        return [match[2] for match in matches if match]
    return lines
