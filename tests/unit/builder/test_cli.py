"""The command line: one line for a mistake, exit codes that scripts can go by."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from builder.catalog import MODELS
from builder.cli import main
from builder.folder import Contents, assemble_folder

_ROOT = Path(__file__).parents[3]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    contents = Contents(MODELS["GoogLeNet"].with_classes(2), "fp32", ["no", "yes"], b"graph", b"answers", 1, {})
    folder = tmp_path / "models" / "googlenet_fp32"
    folder.mkdir(parents=True)
    assemble_folder(folder, contents, contents.release, version=1)
    return folder.parent


def test_list_shows_every_model_with_true_and_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The table says of each number whether it was counted here or quoted."""
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if line.split() and line.split()[0] in MODELS}
    assert list(rows) == list(MODELS)
    assert "(true)" in shown
    assert "(published)" in shown
    for figure in ("6.99 M", "1.43 G", "0.707", "0.897", "8.46 M / 2.88 G", "11.54 M / 1.44 G"):
        assert figure in rows["GoogLeNet"]


def test_list_for_machines_keeps_true_and_published_counts_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """No reader can take PaddleClas's figure for a count of this network."""
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(MODELS)
    for row, spec in zip(rows, MODELS.values(), strict=True):
        assert (row["slug"], row["input_size"], row["resize_short"]) == (spec.slug, spec.input_size, spec.resize_short)
        assert (row["learnable_params"], row["macs"]) == (spec.learnable_params, spec.macs)
        assert row["published"] == asdict(spec.published)
        assert row["weights"]["url"] == spec.weights_url
        assert not set(row["published"]) & set(row)


@pytest.mark.parametrize("command", ["list", "build", "verify"])
def test_help_shows_examples_and_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a script needs to know is where people look first."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m builder {command}" in shown.split("examples:")[1]
    for code in range(5):
        assert f"\n  {code}  " in shown.split("exit codes:")[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "ResNet50"], "GoogLeNet, InceptionV3"),
        (["--precision", "int8"], "fp32, fp16"),
        (["--instances", "0"], "1 or more"),
        (["--input-size", "299"], "--input-size goes with --model"),
        (["--labels", "labels.txt"], "--labels goes with --model"),
        (["--model", "GoogLeNet", "--input-size", "5"], "96..1024"),
        (["--model", "GoogLeNet", "--weights", "missing.pdparams"], "no such file"),
        (["--model", "GoogLeNet", "--model", "InceptionV3", "--weights", "a.pt"], "exactly one --model"),
        (["--weights", "a.pt"], "exactly one --model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    options: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is wrong, and what would be right; nothing is built."""
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--gpu", "cpu", *options]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("builder: ")
    assert expected in line
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    """`python -m builder` hands the exit code on, and shows no stack trace."""
    done = subprocess.run(
        [sys.executable, "-m", "builder", "build", "--gpu", "cpu", "--model", "nothing", "--repository", str(tmp_path)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["train"], ["build"], ["build", "--gpu", "a100"]])
def test_an_unknown_command_or_target_is_a_usage_error(arguments: list[str]) -> None:
    """argparse's own refusals have the same exit code as ours."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_verify_of_a_true_repository_ends_with_0(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model is named, with `ok`."""
    assert main(["verify", str(repository)]) == 0
    assert capsys.readouterr().out.split() == ["googlenet_fp32", "ok"]


def test_verify_names_the_damaged_file_and_ends_with_4(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people a line, for machines a list."""
    (repository / "googlenet_fp32" / "labels.txt").unlink()
    assert main(["verify", str(repository)]) == 4
    shown = capsys.readouterr().out
    assert "1 problem(s)" in shown
    assert "googlenet_fp32/labels.txt is missing" in shown
    assert main(["verify", "--json", str(repository)]) == 4
    assert json.loads(capsys.readouterr().out) == {"googlenet_fp32": ["googlenet_fp32/labels.txt is missing"]}


def test_publish_skips_what_is_no_model_and_says_so(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`publish models/*` is what the help shows, and README.md lies there; machines read nothing but JSON."""
    (repository / "README.md").write_text("Models.")
    folders = [str(path) for path in sorted(repository.iterdir())]
    other = tmp_path / "other" / "models"
    assert main(["publish", *folders, "--repository", str(other), "--json"]) == 0
    captured = capsys.readouterr()
    assert [result["served_name"] for result in json.loads(captured.out)] == ["googlenet_fp32"]
    assert captured.err.splitlines() == [f"builder: {repository / 'README.md'} is skipped: it is no model"]
    assert main(["verify", str(other)]) == 0


def test_publish_of_a_repository_says_what_to_give_instead(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, before anything is written."""
    other = tmp_path / "other" / "models"
    assert main(["publish", str(repository), "--repository", str(other)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    (line,) = captured.err.splitlines()
    assert f"give them, {repository}/*" in line
    assert not other.parent.exists()


def test_verify_of_no_repository_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped path is a mistake, not a clean repository."""
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_repository_that_cannot_be_made_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The environment's fault is told apart from the user's."""
    (tmp_path / "file").write_text("in the way")
    options = ["build", "--gpu", "cpu", "--model", "GoogLeNet", "--weights", "seeded"]
    assert main([*options, "--repository", str(tmp_path / "file" / "models")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be published to" in line
