"""What is refused before anything is measured."""

import pytest

from loadtest.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bench", "--parts", "speed"], "--parts 'speed'"),
        (["bench", "--alternations", "0"], "--alternations 0"),
        (["bench", "--photo", "missing.jpg"], "missing.jpg"),
        (["bench", "--parts", "latency", "--repository", "nowhere", "--photo", "photo.jpg"], "holds no model"),
        (["runtimes", "--repository", "nowhere"], "holds no model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    """It says what was expected."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_the_benchmark_deletes_no_directory_that_it_did_not_make(tmp_path, monkeypatch, capsys):
    """`--repository model_repository --parts build` is a typing error away."""
    (tmp_path / "photo.jpg").write_bytes(b"")
    precious = tmp_path / "model_repository" / "precious"
    precious.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--parts", "build", "--repository", "model_repository", "--photo", "photo.jpg"]) == 2
    assert "would delete it" in capsys.readouterr().err
    assert precious.is_dir()
