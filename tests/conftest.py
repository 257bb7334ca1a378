"""What several rooms of tests share: real models, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import MODELS
from builder.build import BuildOptions, build
from builder.progress import Progress
from builder.targets import CPU

# Served in FP16 too: one network without batch normalisation and one with.
FP16_NAMES = ("GoogLeNet", "InceptionV3")
PHOTOS = Path(__file__).parent.parent / "examples" / "photos"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight models in FP32 and two in FP16, seeded, as `python -m builder build --gpu cpu` publishes them."""
    path = tmp_path_factory.mktemp("built") / "repository"
    for names, precisions in ((MODELS, ("fp32",)), (FP16_NAMES, ("fp16",))):
        specs = tuple(MODELS[name] for name in names)
        build(BuildOptions(specs, CPU, precisions, path, weights="seeded"), Progress(is_quiet=True))
    return path


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Three real photographs: cat, coffee, rocket."""
    return sorted(PHOTOS.glob("*.jpg"))
