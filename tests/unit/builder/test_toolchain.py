"""What a machine has and what a target says to it; GPUs come from a small real `nvidia-smi`, TensorRT from a module."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import gpus
from builder.errors import IncompleteBuild
from builder.targets import T4, V100, Target
from builder.toolchain import (
    Gpu,
    Toolchain,
    cautions,
    found_toolchain,
    gpu_for,
    is_same_release,
    refusals,
    target_from_gpu,
)

_T4 = "0, GPU-11, Tesla T4, 7.5, 580.95.05, 15360"
_V100 = "1, GPU-22, Tesla V100-SXM2-16GB, 7.0, 550.54.14, 16160"
_L4 = "0, GPU-33, NVIDIA L4, 8.9, 580.95.05, 23034"


def _gpu(row: str) -> Gpu:
    index, uuid, name, capability, driver, memory = row.split(", ")
    return Gpu(int(index), uuid, name, capability, driver, int(memory))


def _machine(*rows: str, tensorrt: str | None = "11.2.1.2", polygraphy: str | None = "0.53.6") -> Toolchain:
    return Toolchain(tuple(_gpu(row) for row in rows), tensorrt, polygraphy, "3.12.3")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of this body on PATH, alone but for the shell it is written in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(body: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes `import tensorrt` run this text, for one test."""

    def write(text: str) -> None:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "tensorrt.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    yield write
    sys.modules.pop("tensorrt", None)


@pytest.mark.usefixtures("nvidia_smi")
def test_a_machine_without_anything_is_described() -> None:
    """No nvidia-smi is no GPU, and no reason for a note."""
    found = found_toolchain()
    assert (found.gpus, found.tensorrt, found.notes) == ((), None, ())
    assert found.python == ".".join(map(str, sys.version_info[:3]))


def test_every_gpu_is_read(nvidia_smi: Callable[[str], None]) -> None:
    """Index, UUID, name, compute capability, driver and memory; memory may be unknown."""
    nvidia_smi(f"echo '{_T4}'; echo '{_V100.replace('16160', '[N/A]')}'")
    first, second = found_toolchain().gpus
    assert first == _gpu(_T4)
    assert second == dataclasses.replace(_gpu(_V100), memory_mib=None)


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", "ended with 9"),
        ("echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2", "too old"),
        ("echo 'a garbled line'", "no GPU in order: a garbled line"),
        ("printf 'GPU \\377\\000\\n'", "no GPU in order: GPU \ufffd"),
        (f"echo '{_T4.replace('7.5', '[Unknown Error]')}'", "[Unknown Error]"),
        (f"echo '{_T4.replace('580.95.05', '[N/A]')}'", "[N/A]"),
        ("", "answered nothing"),
    ],
    ids=[
        "driver is not loaded",
        "driver does not know the field",
        "garbled",
        "not text",
        "GPU fell off the bus",
        "driver is unknown",
        "silent",
    ],
)
def test_an_nvidia_smi_that_fails_is_a_note(nvidia_smi: Callable[[str], None], body: str, note: str) -> None:
    """No GPU is seen, and why is told: in the refusal too."""
    nvidia_smi(body)
    found = found_toolchain()
    assert found.gpus == ()
    assert note in found.notes[0]
    assert note in refusals(T4, found)[0].message
    with pytest.raises(IncompleteBuild, match="and there is none") as told:
        target_from_gpu(found)
    assert note in str(told.value)


def test_an_nvidia_smi_that_hangs_is_left_and_is_a_note(
    nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that is not well never answers; the builder does not wait for it for ever."""
    monkeypatch.setattr(gpus, "_NVIDIA_SMI_TIMEOUT_S", 0.1)
    nvidia_smi("while :; do :; done")
    found = found_toolchain()
    assert found.gpus == ()
    assert "no answer within 0.1 s" in refusals(T4, found)[0].message


def test_a_gpu_that_fell_off_the_bus_does_not_hide_the_other(nvidia_smi: Callable[[str], None]) -> None:
    """The one that answers is used, the other is told of."""
    nvidia_smi(f"echo '0, GPU-11, {', '.join(['[GPU is lost]'] * 4)}'; echo '{_V100}'")
    found = found_toolchain()
    assert found.gpus == (_gpu(_V100),)
    assert "[GPU is lost]" in found.notes[0]


def test_a_program_that_cannot_be_run_is_a_note(nvidia_smi: Callable[[str], None], tmp_path: Path) -> None:
    """A file without an interpreter is no reason for a stack trace."""
    nvidia_smi("")
    (tmp_path / "nvidia-smi").write_text("#!/nowhere/sh\n")
    assert "cannot be run" in found_toolchain().notes[0]


def test_tensorrt_is_what_can_be_imported(tensorrt: Callable[[str], None]) -> None:
    """Its own word for its version."""
    tensorrt("__version__ = '10.4.0'")
    assert found_toolchain().tensorrt == "10.4.0"


@pytest.mark.parametrize(
    "text",
    [
        "import libnvinfer_that_is_not_there",
        "raise OSError('libnvinfer.so.10: no such file')",
        "raise RuntimeError('built for another CUDA')",
        "raise ValueError('numpy.dtype size changed')",
        "raise SystemError('initialization failed')",
        "",
    ],
)
def test_a_tensorrt_that_does_not_import_is_a_note(tensorrt: Callable[[str], None], text: str) -> None:
    """Installed and broken is told apart from not installed."""
    tensorrt(text)
    found = found_toolchain()
    assert found.tensorrt is None
    assert "cannot be imported" in found.notes[0]
    assert "cannot be imported" in refusals(T4, dataclasses.replace(found, gpus=(_gpu(_T4),)))[0].message


@pytest.mark.parametrize(
    ("target", "machine"),
    [
        (T4, _machine(_T4)),
        (V100, _machine(_V100, tensorrt="10.4.0")),
        (V100, _machine(_T4, _V100, tensorrt="10.4.0.26")),
        (V100, _machine(_V100.replace("550.54.14", "580.95.05"), tensorrt="10.4.0")),
        (V100, _machine(_V100.replace("550.54.14", "525.60.13"), tensorrt="10.4.0")),
    ],
    ids=["T4", "V100", "V100 beside a T4", "the last driver branch of Volta", "the first driver branch of CUDA 12"],
)
def test_the_right_machine_is_not_refused(target: Target, machine: Toolchain) -> None:
    """`10.4.0` is the same TensorRT as the table's `10.4.0.26`."""
    assert refusals(target, machine) == []
    assert cautions(target, machine) == []


@pytest.mark.parametrize(
    ("target", "machine", "sides"),
    [
        (T4, _machine(_V100), ["Tesla V100-SXM2-16GB", "7.0", "NVIDIA T4", "7.5"]),
        (T4, _machine(_V100, _L4), ["Tesla V100-SXM2-16GB", "7.0", "NVIDIA L4", "8.9", "NVIDIA T4", "7.5"]),
        (V100, _machine(_T4, tensorrt="10.4.0"), ["Tesla T4", "7.5", "NVIDIA V100", "7.0"]),
        (V100, _machine(_V100), ["TensorRT 11.2.1.2", "10.4.0.26", "10.5", "7.0"]),
        (V100, _machine(_V100, tensorrt="10.5.0"), ["TensorRT 10.5.0", "10.4.0.26"]),
        (T4, _machine(_T4, tensorrt="8.6.1"), ["TensorRT 8.6.1", "11.2.1"]),
        (T4, _machine(_T4.replace("580.95.05", "470.57.02")), ["470.57.02", "580"]),
        (V100, _machine(_V100.replace("550.54.14", "590.10"), tensorrt="10.4.0"), ["590.10", "580"]),
        (T4, _machine(_T4, tensorrt="11.3.0.99"), ["TensorRT 11.3.0.99", "11.2.1", T4.tensorrt_image]),
        (V100, _machine(_V100, tensorrt="10.3.0"), ["TensorRT 10.3.0", "10.4.0.26", V100.tensorrt_image]),
    ],
    ids=[
        "V100 for T4",
        "two for T4",
        "T4 for V100",
        "no Volta in 11",
        "no Volta in 10.5",
        "TensorRT 8",
        "old driver",
        "new driver",
        "TensorRT of another month",
        "TensorRT before the last with Volta",
    ],
)
def test_the_wrong_one_is_refused_with_both_sides(target: Target, machine: Toolchain, sides: list[str]) -> None:
    """What is here and what is needed stand in one sentence; nothing else is refused."""
    (refusal,) = refusals(target, machine)
    assert refusal.is_wrong
    assert [side for side in sides if side not in refusal.message] == []


def test_weak_typing_is_refused_where_it_is_gone() -> None:
    """Asked of TensorRT 11 it would be ignored, and FP32 would come out in silence."""
    (refusal,) = refusals(T4, _machine(_T4), is_weakly_typed=True)
    assert refusal.is_wrong
    assert "11.2.1.2" in refusal.message
    assert "before 11.0" in refusal.message
    assert refusals(V100, _machine(_V100, tensorrt="10.4.0"), is_weakly_typed=True) == []


def test_what_is_missing_is_not_called_wrong() -> None:
    """Without GPU, TensorRT and Polygraphy the work before the plan can still be done."""
    missing = refusals(T4, _machine(tensorrt=None, polygraphy=None))
    assert [refusal.is_wrong for refusal in missing] == [False] * 3
    for refusal, word in zip(missing, ("GPU", T4.tensorrt_image, "pip install"), strict=True):
        assert word in refusal.message


def test_another_tensorrt_is_built_with_on_request_only() -> None:
    """The table's 11.2.1 is second-hand: what is really there may build, if the same serves; it stays a caution."""
    machine = _machine(_T4, tensorrt="11.3.0.99")
    (refusal,) = refusals(T4, machine)
    assert "--tensorrt-of-this-host" in refusal.message
    assert cautions(T4, machine) == []
    assert refusals(T4, machine, is_other_tensorrt_allowed=True) == []
    (caution,) = cautions(T4, machine, is_other_tensorrt_allowed=True)
    assert "11.3.0.99" in caution
    assert "11.2.1" in caution


def test_a_tensorrt_that_cannot_build_is_no_caution_beside_its_refusal() -> None:
    """On request or not: `only a Triton with 11.2.1 can load the plan` would promise a plan that cannot be."""
    machine = _machine(_V100)
    for is_allowed in (False, True):
        (refusal,) = refusals(V100, machine, is_other_tensorrt_allowed=is_allowed)
        assert "10.5 removed it" in refusal.message
        assert cautions(V100, machine, is_other_tensorrt_allowed=is_allowed) == []


def test_another_patch_of_the_release_is_a_caution() -> None:
    """Plans of 11.2.0 may not load in 11.2.1; the same release is not refused."""
    machine = _machine(_T4, tensorrt="11.2.0.5")
    assert refusals(T4, machine) == []
    (caution,) = cautions(T4, machine)
    assert "11.2.0.5" in caution


@pytest.mark.parametrize(
    ("found", "listed", "is_same"),
    [
        ("10.4.0", "10.4.0.26", True),
        ("11.2.0", "11.2.1", True),
        ("11.2.1.post1", "11.2.1", True),
        ("10.3.0", "10.4.0", False),
        ("11.4.0", "10.4.0", False),
    ],
)
def test_a_release_is_major_and_minor(found: str, listed: str, *, is_same: bool) -> None:
    """What follows is a patch of it."""
    assert is_same_release(found, listed) is is_same


@pytest.mark.parametrize(
    ("target", "name", "is_told"),
    [
        (T4, "Tesla T4", False),
        (T4, "NVIDIA T4", False),
        (T4, "Quadro RTX 6000", True),
        (T4, "NVIDIA T400", True),
        (V100, "Tesla V100-SXM2-16GB", False),
        (V100, "NVIDIA TITAN V", True),
    ],
)
def test_another_card_of_the_same_capability_is_named(target: Target, name: str, *, is_told: bool) -> None:
    """It builds a plan that runs on the target, and is tuned for itself."""
    row = (_T4 if target is T4 else _V100).replace("Tesla T4", name).replace("Tesla V100-SXM2-16GB", name)
    machine = _machine(row, tensorrt=target.tensorrt)
    assert refusals(target, machine) == []
    told = [f"the GPU here is {name}: its plan is tuned for that, not for an {target.title}"]
    assert cautions(target, machine) == (told if is_told else [])


def test_auto_is_the_row_of_the_gpu_that_is_here() -> None:
    """The table where it has one; else a row made from the GPU, with the TensorRT that is here."""
    assert target_from_gpu(_machine(_T4)) is T4
    assert target_from_gpu(_machine(_V100, _T4)) is V100
    row = target_from_gpu(_machine(_L4))
    assert (row.name, row.title, row.plan_filename, row.tensorrt) == ("sm89", "NVIDIA L4", "sm89.plan", "11.2.1.2")
    assert (refusals(row, _machine(_L4)), cautions(row, _machine(_L4))) == ([], [])
    with pytest.raises(IncompleteBuild, match="--gpu t4"):
        target_from_gpu(_machine())


def test_a_new_gpu_is_one_row() -> None:
    """A10, L4, A100, H100: nothing but the table says what they need."""
    row = dataclasses.replace(T4, name="l4", title="NVIDIA L4", compute_capability="8.9")
    assert row.plan_filename == "sm89.plan"
    assert refusals(row, _machine(_L4)) == []
    assert gpu_for(row, _machine(_T4, _L4)) == _gpu(_L4)
    (refusal,) = refusals(row, _machine(_T4))
    assert "an NVIDIA L4 (compute capability 8.9)" in refusal.message
