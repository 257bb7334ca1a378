"""What a model may be called: PaddleClas's name, its slug, or the name it is served under. One literal table."""

from __future__ import annotations

import re

from client.errors import InvalidRequest

# PaddleClas's name -> slug. Served name = slug, size suffix where it is not the usual size, "_", precision.
SLUGS = {
    "GoogLeNet": "googlenet",
    "InceptionV3": "inception_v3",
    "InceptionV4": "inception_v4",
    "Xception41": "xception41",
    "Xception41_deeplab": "xception41_deeplab",
    "Xception65": "xception65",
    "Xception65_deeplab": "xception65_deeplab",
    "Xception71": "xception71",
}
PRECISIONS = ("fp16", "fp32")  # in the order in which one is chosen when none is asked for

_BY_LOWER_NAME = {name.lower(): slug for name, slug in SLUGS.items()} | {slug: slug for slug in SLUGS.values()}
_WITH_SIZE = re.compile(r"(?P<base>.+?)_(?P<size>[1-9][0-9]{1,3})")


def served_name(slug: str, precision: str) -> str:
    """The name Triton serves."""
    return f"{slug}_{precision}"


def usual_served_names() -> tuple[str, ...]:
    """Every architecture at its usual size in every precision: what to ask for where listing is not allowed."""
    return tuple(served_name(slug, precision) for slug in SLUGS.values() for precision in PRECISIONS)


def slug_and_precision(model: str) -> tuple[str, str | None] | None:
    """`model` in any accepted spelling and any case as (slug with its size, precision or None); None for another name.

    "InceptionV3", "inception_v3", "googlenet_299" and "inception_v3_fp16" are all accepted.
    """
    wanted = model.strip().lower()
    precision = next((each for each in PRECISIONS if wanted.endswith(f"_{each}")), None)
    if precision is not None:
        wanted = wanted.removesuffix(f"_{precision}")
    if wanted in _BY_LOWER_NAME:
        return _BY_LOWER_NAME[wanted], precision
    sized = _WITH_SIZE.fullmatch(wanted)
    if sized is not None and sized["base"] in _BY_LOWER_NAME:
        return f"{_BY_LOWER_NAME[sized['base']]}_{sized['size']}", precision
    return None


def base_slug(slug: str) -> str:
    """The slug without its size suffix: "googlenet_299" -> "googlenet"."""
    sized = _WITH_SIZE.fullmatch(slug)
    return sized["base"] if sized is not None and slug not in _BY_LOWER_NAME else slug


def checked_precision(precision: str | None) -> str | None:
    """`precision` itself; `InvalidRequest` unless it is "fp16", "fp32" or None."""
    if precision is None or precision in PRECISIONS:
        return precision
    raise InvalidRequest(
        f"precision {precision!r} is unknown; expected {' or '.join(map(repr, PRECISIONS))}, "
        "or None for fp16 where it is served and fp32 elsewhere"
    )
