"""A repository whose one model has a real model's configs and contract, and no network behind them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.inprocess import model_file

_UNBOUNDED, _BOUNDED = (
    "dynamic_batching {\n}\n",
    "dynamic_batching {\n  default_queue_policy {\n    max_queue_size: 64\n  }\n}\n",
)


@contextmanager
def instant_repository(
    repository: Path, served_name: str, *, sleep_ms: float = 0.0, is_queue_bounded: bool = False
) -> Iterator[Path]:
    """`served_name` of `repository`, answering `sleep_ms` after a batch was handed to it; one instance.

    With `is_queue_bounded` its queue is bounded at 64 requests, which the builder's CPU configuration leaves out.
    """
    with TemporaryDirectory(prefix="inception-instant-") as directory:
        folder = Path(directory) / served_name
        source = model_file(repository, served_name).parent
        shutil.copytree(source.parent, folder, ignore=lambda _path, names: {source.name} & set(names))
        (folder / source.name).mkdir()
        backend = files("loadtest") / "instant_backend" / "model.py"
        (folder / source.name / "model.py").write_bytes(backend.read_bytes())
        config = folder / "configs" / "cpu.pbtxt"
        text = config.read_text(encoding="utf-8")
        if is_queue_bounded:
            text = text.replace(_UNBOUNDED, _BOUNDED)
        text += f'parameters {{ key: "sleep_ms" value {{ string_value: "{sleep_ms}" }} }}\n'
        config.write_text(text, encoding="utf-8")
        yield Path(directory)
