"""What can go wrong on the way from a catalog row to a published folder, and at which arrow.

    catalog row -> module -> model.onnx -> smNN.plan -> folder -> repository

    BuilderError                      exit code 1: our fault or the environment's
     |- UnknownModel                  2  the name is not in the catalog
     |- UsageError                    2  options that contradict each other
     |- LabelsRejected                2  a label file that does not fit the head
     |- WeightsUnavailable            1  the official file could not be fetched
     |- WeightsRejected               4  file -> tensors: not a weight file, or not this model's
     |- ExportFailed                  1  module -> ONNX: the exporter or the written graph is wrong
     |- PlanFailed                    1  model.onnx -> smNN.plan: TensorRT refused the graph, or ran out of something
     |- ParityFailed                  4  two forms of one model give different answers
     |- PrecisionRejected             4  FP16 would overflow, or changes the answer
     |- IncompleteBuild               3  a step needs a machine that this one is not
     |- PublishConflict               1  another publisher holds the repository, or it cannot be written
     `- RepositoryDamaged             4  files differ from their manifest

Every message says what happened, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class BuilderError(Exception):
    """Base of everything the builder raises on purpose.

    `exit_code` is what the command line returns, `results` what was finished before, ready for JSON.
    """

    exit_code = 1
    results: Sequence[Mapping[str, object]] = ()


class UnknownModel(BuilderError):
    """The catalog has no row of that name."""

    exit_code = 2


class UsageError(BuilderError):
    """The options given contradict each other or name something that does not exist."""

    exit_code = 2


class LabelsRejected(BuilderError):
    """The label file cannot be read, or has another number of lines than the head has classes."""

    exit_code = 2


class WeightsUnavailable(BuilderError):
    """The official weight file could not be fetched."""


class WeightsRejected(BuilderError):
    """The file is not a weight file, or not one of this model; nothing of it was executed, nothing was written."""

    exit_code = 4


class ExportFailed(BuilderError):
    """The exporter failed, or the graph it wrote breaks a rule of `onnx_graph`."""


class PlanFailed(BuilderError):
    """TensorRT could not build a plan, or could not load or run the one it built."""


class ParityFailed(BuilderError):
    """Two forms of one model disagree beyond the stated tolerance."""

    exit_code = 4


class PrecisionRejected(BuilderError):
    """The model cannot be served in FP16: an activation is too large, or an answer changes."""

    exit_code = 4


class IncompleteBuild(BuilderError):
    """Everything this machine can do is done and kept, as `results` says; the step left needs another machine."""

    exit_code = 3

    def __init__(self, message: str, results: Sequence[Mapping[str, object]] = ()) -> None:
        super().__init__(message)
        self.results = results


class PublishConflict(BuilderError):
    """The repository could not be written: another publisher holds it, or the file system refuses."""


class RepositoryDamaged(BuilderError):
    """A repository differs from its manifests."""

    exit_code = 4
