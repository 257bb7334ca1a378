"""The kinds of hosts, and what `--precision` means on each."""

from __future__ import annotations

import dataclasses

import pytest

from builder.errors import UsageError
from builder.targets import CPU, GPU_TARGETS, T4, TARGETS, V100, precisions_from_option


def test_a_plan_is_named_after_its_compute_capability() -> None:
    """sm75.plan is for 7.5: Triton picks by that number, people by the name."""
    for target in GPU_TARGETS:
        assert target.compute_capability is not None
        assert target.plan_filename == f"sm{target.compute_capability.replace('.', '')}.plan"
    assert {target.compute_capability for target in GPU_TARGETS} == {"7.0", "7.5"}


def test_every_target_is_found_under_its_own_name() -> None:
    """`--gpu NAME` and the table agree; only the processor has no plan."""
    assert {name: target.name for name, target in TARGETS.items()} == {name: name for name in ("t4", "v100", "cpu")}
    assert [target.name for target in TARGETS.values() if target.plan_filename is None] == ["cpu"]


def test_a_row_that_is_not_in_the_table_is_asked_for_by_auto() -> None:
    """`--gpu sm80` does not exist, nor does a service build-sm80."""
    made = dataclasses.replace(T4, name="sm80", title="NVIDIA A100")
    assert (made.is_listed, made.option) == (False, "auto")
    assert [(target.is_listed, target.option) for target in GPU_TARGETS] == [(True, "v100"), (True, "t4")]


@pytest.mark.parametrize(
    "title", ["an NVIDIA T4", "a Tesla V100-SXM2-16GB", "a Quadro RTX 6000", "a GeForce RTX 2080", "an A100-SXM4-40GB"]
)
def test_a_title_has_its_article(title: str) -> None:
    """Drivers name cards with the maker or without."""
    assert dataclasses.replace(T4, title=title.partition(" ")[2]).a_title == title


def test_volta_is_kept_on_the_last_release_that_serves_it() -> None:
    """TensorRT 10.5 left Volta behind: Triton 24.09 with 10.4 is the end of the line for a V100."""
    assert V100.triton_release == "24.09"
    assert V100.tensorrt is not None
    assert tuple(map(int, V100.tensorrt.split(".")[:2])) < (10, 5)


@pytest.mark.parametrize(("target", "expected"), [(CPU, ("fp32",)), (T4, ("fp16", "fp32")), (V100, ("fp16", "fp32"))])
def test_without_the_option_a_target_has_its_own_precisions(target, expected: tuple[str, ...]) -> None:
    """FP16 is for GPUs: on a processor it is no faster."""
    assert precisions_from_option(None, target) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", ("fp32",)),
        ("fp16,fp32", ("fp16", "fp32")),
        (" fp32 , fp16,", ("fp32", "fp16")),
        ("fp32,fp32", ("fp32",)),
    ],
)
def test_precisions_are_taken_in_the_order_given_and_once(text: str, expected: tuple[str, ...]) -> None:
    """Spaces and repetitions are no mistakes."""
    assert precisions_from_option(text, T4) == expected


@pytest.mark.parametrize("text", ["", ",", "int8", "fp32,bf16", "FP32"])
def test_a_word_that_is_no_precision_is_refused(text: str) -> None:
    """The message has the words that are."""
    with pytest.raises(UsageError, match="fp32, fp16"):
        precisions_from_option(text, CPU)
