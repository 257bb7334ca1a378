from pathlib import Path

import pytest

from serving.errors import PlanMissing, RepositoryInvalid, UsageError
from serving.repository import gpu_compute_capabilities, missing_plan, models_to_serve

CONFIG = """\
name: "m"
backend: "tensorrt"
cc_model_filenames [{ key: "7.5" value: "sm75.plan" }, { key: "7.0" value: "sm70.plan" }]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models, complete for CPU serving, and the README that a repository carries."""
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "configs").mkdir()
        (tmp_path / name / "config.pbtxt").write_text(CONFIG)
        (tmp_path / name / "configs" / "cpu.pbtxt").write_text('backend: "python"\n')
        (tmp_path / name / "1" / "model.py").touch()
    (tmp_path / "README.md").touch()
    return tmp_path


def test_a_whole_repository_or_a_choice_of_it_is_served(repository):
    """A choice is sorted and without doubles."""
    assert models_to_serve(repository, None, "cpu") == ["a", "b"]
    assert models_to_serve(repository, ["b", "b"], "cpu") == ["b"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.pbtxt", "is not a model folder"),
        ("configs/cpu.pbtxt", "would take the GPU config"),
        ("1/model.py", "which CPU serving runs"),
    ],
)
def test_an_incomplete_model_is_refused_by_name(repository, missing, message):
    """Only if it is to be served."""
    (repository / "b" / missing).unlink()
    with pytest.raises(RepositoryInvalid, match=message) as refused:
        models_to_serve(repository, None, "cpu")
    assert "/b" in str(refused.value)
    assert models_to_serve(repository, ["a"], "cpu") == ["a"]


def test_a_stray_folder_is_refused_because_triton_takes_it_for_a_model(repository):
    """Dot-names too."""
    (repository / ".staging").mkdir()
    with pytest.raises(RepositoryInvalid, match=r"\.staging is not a model folder"):
        models_to_serve(repository, None, "cpu")


def test_an_empty_or_absent_repository_names_the_build_command(tmp_path):
    """Both are where a first start ends."""
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RepositoryInvalid, match="python -m builder build --gpu cpu"):
            models_to_serve(path, None, "cpu")


def test_an_unknown_name_is_answered_with_the_known_ones(repository):
    """A usage error, not a damaged repository."""
    with pytest.raises(UsageError, match="holds no model named c; it holds a, b"):
        models_to_serve(repository, ["a", "c"], "cpu")


def test_a_missing_plan_is_found_by_compute_capability(repository):
    """The newest version folder counts, and a GPU that the config does not list has none."""
    model = repository / "a"
    (model / "2").mkdir()
    (model / "2" / "sm75.plan").touch()
    assert missing_plan(model, ["7.5"]) is None
    capability, what = missing_plan(model, ["7.5", "7.0"])
    assert (capability, "2/sm70.plan does not exist" in what) == ("7.0", True)
    assert missing_plan(model, ["9.0"])[0] == "9.0"
    assert missing_plan(model, []) is None


@pytest.fixture
def nvidia_smi(tmp_path_factory, monkeypatch):
    """Makes `nvidia-smi` answer these lines, for one test."""
    tools = tmp_path_factory.mktemp("tools")
    monkeypatch.setenv("PATH", str(tools))

    def write(*lines):
        (tools / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        (tools / "nvidia-smi").chmod(0o755)
        gpu_compute_capabilities.cache_clear()

    yield write
    gpu_compute_capabilities.cache_clear()


def test_a_gpu_that_does_not_answer_has_no_capability(nvidia_smi):
    """`[N/A]` is no GPU to have a plan for."""
    nvidia_smi("[N/A]", "7.5", "[GPU is lost]", "8.0")
    assert gpu_compute_capabilities() == ("7.5", "8.0")


def test_a_gpu_without_a_plan_is_told_which_plans_there_are(repository, nvidia_smi):
    """Those of this folder, whatever it was built for; and the command that works on any GPU."""
    nvidia_smi("8.0")
    with pytest.raises(PlanMissing, match=r"capability 8\.0.*It has no plan at all.*build --gpu auto"):
        models_to_serve(repository, ["a"], "gpu")
    (repository / "a" / "1" / "sm89.plan").touch()
    (repository / "a" / "1" / "sm75.plan").touch()
    with pytest.raises(PlanMissing, match=r"It has sm75\.plan, sm89\.plan\. Run"):
        models_to_serve(repository, ["a"], "gpu")
