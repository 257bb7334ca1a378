"""Write the golden configs anew, on purpose: `python tests/data/configs/write.py`. See README.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.catalog import MODELS
from builder.triton_config import configs_from_spec

HERE = Path(__file__).parent
LABELS = ["cat", "coffee", 'a "rocket", große']
RELEASE = "0123456789abcdef"


@dataclass(frozen=True)
class Case:
    """One folder of goldens and what its two files are written from."""

    folder: str
    model: str
    precision: str
    instances: int | None = None
    profile_sizes: tuple[int, ...] = (8,)


CASES = (
    Case("googlenet_fp32", "GoogLeNet", "fp32"),
    Case("googlenet_fp16", "GoogLeNet", "fp16"),
    Case("googlenet_fp16_profiles_1_4_8", "GoogLeNet", "fp16", instances=3, profile_sizes=(1, 4, 8)),
    Case("inception_v3_fp16", "InceptionV3", "fp16"),
    Case("inception_v4_fp32", "InceptionV4", "fp32"),
    Case("xception41_fp16", "Xception41", "fp16"),
    Case("xception65_deeplab_fp32", "Xception65_deeplab", "fp32"),
)


def texts_of(case: Case) -> dict[str, str]:
    """What the builder writes today, by file name."""
    spec = MODELS[case.model].with_classes(len(LABELS))
    configs = configs_from_spec(spec, case.precision, LABELS, RELEASE, case.instances, case.profile_sizes)
    return {"config.pbtxt": configs.gpu, "cpu.pbtxt": configs.cpu}


def main() -> None:
    """Overwrite every golden."""
    for case in CASES:
        (HERE / case.folder).mkdir(exist_ok=True)
        for name, text in texts_of(case).items():
            (HERE / case.folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
