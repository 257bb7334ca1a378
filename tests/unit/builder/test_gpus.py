"""Which GPUs CUDA would show a program: `nvidia-smi` is a small real one, CUDA_VISIBLE_DEVICES is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.targets import T4
from builder.toolchain import found_toolchain, gpu_for, refusals, target_from_gpu

_T4 = "0, GPU-11aa, Tesla T4, 7.5, 580.95.05, 15360"
_V100 = "1, GPU-22bb, Tesla V100-SXM2-16GB, 7.0, 580.95.05, 16160"
_SECOND_T4 = "2, GPU-11cc, Tesla T4, 7.5, 580.95.05, 15360"
_PCI_ORDER = "PCI_BUS_ID"


@pytest.fixture(autouse=True)
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two kinds of them, one twice; nothing is hidden yet. Returns the program that tells of them."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{_T4}'\necho '{_V100}'\necho '{_SECOND_T4}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(variable, raising=False)
    return program


def _show(monkeypatch: pytest.MonkeyPatch, visible: str, order: str | None = None) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)


def test_without_the_variable_every_gpu_is_there() -> None:
    """In the order of nvidia-smi, and without a note."""
    found = found_toolchain()
    assert ([gpu.index for gpu in found.gpus], found.notes) == ([0, 1, 2], ())


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", [1]),
        ("2,1", [2, 1]),
        (" 1 , 0", [1, 0]),
        ("GPU-22bb", [1]),
        ("GPU-22", [1]),
        ("GPU-11c,GPU-22", [2, 1]),
        ("GPU-22,0", [1, 0]),
        ("", []),
        ("-1", []),
        ("-1,0", []),
        ("1,7,0", [1]),
        ("1,nonsense,0", [1]),
        ("1,,0", [1]),
        ("1,GPU-ff,0", [1]),
        ("1,GPU-11,0", [1]),
        ("0,0,1", [0]),
        ("MIG-22bb", []),
        ("22bb", []),
    ],
)
def test_only_the_named_gpus_are_candidates(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int]) -> None:
    """As CUDA reads it: in this order, up to the first entry that is no GPU or no single one; and a note says so."""
    _show(monkeypatch, visible, _PCI_ORDER)
    found = found_toolchain()
    assert [gpu.index for gpu in found.gpus] == expected
    assert found.notes == (f"CUDA_VISIBLE_DEVICES={visible} hides {3 - len(expected)} of 3 GPUs",)


def test_another_order_is_no_reason_for_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is hidden; the first one named is CUDA's first, and the one that `--gpu auto` takes."""
    _show(monkeypatch, "GPU-22,GPU-11a,GPU-11c")
    found = found_toolchain()
    assert ([gpu.index for gpu in found.gpus], found.notes) == ([1, 0, 2], ())
    assert target_from_gpu(found).name == "v100"
    assert gpu_for(T4, found).uuid == "GPU-11aa"


def test_numbers_of_several_kinds_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's 1 need not be nvidia-smi's 1: the plan could be the other GPU's. UUIDs are the way out, and are told."""
    _show(monkeypatch, "GPU-22,1")
    found = found_toolchain()
    assert found.gpus == ()
    refusal = refusals(T4, found)[0]
    for expected in ("CUDA_VISIBLE_DEVICES=GPU-22,1", "GPU-11cc Tesla T4", "CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        assert expected in refusal.message


def test_numbers_of_one_kind_are_certain(monkeypatch: pytest.MonkeyPatch, three_gpus: Path) -> None:
    """Whichever CUDA means, the plan is the same."""
    three_gpus.write_text(f"#!/bin/sh\necho '{_T4}'\necho '{_SECOND_T4.replace('2,', '1,', 1)}'\n")
    _show(monkeypatch, "1")
    assert [gpu.uuid for gpu in found_toolchain().gpus] == ["GPU-11cc"]


def test_a_refusal_tells_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The T4 is in the machine: who reads that only a V100 is here must learn why."""
    _show(monkeypatch, "GPU-22")
    (wrong, *_) = refusals(T4, found_toolchain())
    assert "the GPU here is Tesla V100-SXM2-16GB" in wrong.message
    assert "CUDA_VISIBLE_DEVICES=GPU-22 hides 2 of 3 GPUs" in wrong.message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES= hides 3 of 3 GPUs" in refusals(T4, found_toolchain())[0].message
