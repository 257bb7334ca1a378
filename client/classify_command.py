"""`python -m client classify`: images in, rows out, for one image or a million.

    PATH... -> image paths -> those without a row yet -> classify_many -> settled: a row
                                                                      -> not answered: named, tried again by --resume

An image is settled when it was answered or is no image that can be. What failed for the server's reasons, or could not
be read, gets no row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from client import parquet
from client.classification import Outcome
from client.client import InceptionClient
from client.errors import (
    BadResponse,
    InceptionError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    ServerUnavailable,
    UnreadableImage,
)
from client.image_paths import STDIN, ImagePaths
from client.interruption import Interrupted, Interruption
from client.progress import Lines, Progress, progress_on, say
from client.report import Counts, Reporter, summarise
from client.results import Classification
from client.row_file import Identity, RowFile
from client.rows import Csv, FlatJsonLines, JsonLines, RowFormat, Settled
from client.settings import Settings
from client.stream import check_sizes

INTERRUPTED = 130  # as the shell counts SIGINT
# The run ends when so many batches in a row were not answered: the next million would not be either.
UNANSWERED_BATCHES = 3
_USUAL_BATCH_SIZE = 8
_FORMATS = ("jsonl", "csv", "parquet")
# One image may have spoilt its batch: the others deserve better. What the model cannot do is not asked for twice else.
_OF_A_BATCH = (InferenceFailed, BadResponse)


class Sink(Protocol):
    """Where rows go."""

    def claim(self, image: str) -> bool:
        """Whether this image is to be done."""

    def write(self, image: str, outcome: Settled) -> None:
        """Put down the outcome of one image."""

    def finish(self) -> None:
        """The run has reached its end."""


class Printed:
    """Rows, or text where there is no `row_format`, on standard output."""

    def __init__(self, row_format: RowFormat | None) -> None:
        self._format = row_format
        self._is_begun = False

    def claim(self, image: str) -> bool:
        """See `Sink`; an image named twice is shown twice."""
        return True

    def write(self, image: str, outcome: Settled) -> None:
        """See `Sink`; among text, a bad image is named on standard error only."""
        if self._format is not None:
            header = b"" if self._is_begun else self._format.header
            self._put(header + self._format.row(image, outcome))
        elif isinstance(outcome, Classification):
            self._put(f"{_text(image, outcome)}\n".encode("utf-8", "surrogateescape"))
        self._is_begun = True

    def finish(self) -> None:
        """See `Sink`."""

    def _put(self, data: bytes) -> None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class ReplacedOnServer(InceptionError):
    """The server answers with another model than the rows so far are of."""


def classify(client: InceptionClient, options: argparse.Namespace, settings: Settings) -> int:
    """Run the command and return its exit code. Raises `InvalidRequest` for options that contradict each other."""
    row_format = row_format_from(options)
    if options.output is None:
        return Run(client, options, settings, Printed(row_format)).code()
    if row_format is None:
        raise InvalidRequest("a table is for reading, not for a file: give --format jsonl, csv or parquet")
    try:
        identity = identity_of(client, options, row_format)
        file = RowFile(Path(options.output), row_format, identity, is_resumed=options.resume)
    except ServerUnavailable as error:
        return Reporter(Lines(sys.stderr, None), settings).ended_by(error)
    with file:
        return Run(client, options, settings, file, identity).code()


def row_format_from(options: argparse.Namespace) -> RowFormat | None:
    """The format that was asked for, or that the output's name ends in; None for text."""
    name: str | None = options.format
    if options.json:
        if name not in (None, "jsonl"):
            raise InvalidRequest(f"--json means --format jsonl, and --format {name} was given too: give one of them")
        name = "jsonl"
    if name is None and options.output is not None:
        name = Path(options.output).suffix.removeprefix(".")
        if name not in _FORMATS:
            raise InvalidRequest(f"{options.output} does not end in .jsonl, .csv or .parquet: give --format")
    if options.resume and options.output is None:
        raise InvalidRequest("--resume goes on with a file: give --output too")
    if options.top_k < 1:
        raise InvalidRequest(f"--top-k is {options.top_k}; expected at least 1")
    check_sizes(options.window, options.batch_size)
    if name == "jsonl":
        return JsonLines()
    if name == "csv":
        return Csv(options.top_k)
    if name != "parquet":
        return None
    if options.output is None:
        raise InvalidRequest("Parquet can be written to a file only: give --output FILE")
    parquet.check_installed()
    return FlatJsonLines(options.top_k)


def identity_of(client: InceptionClient, options: argparse.Namespace, row_format: RowFormat) -> Identity:
    """What decides a row. The server is asked to classify a grey square: what answers is what will answer."""
    grey = np.full((32, 32, 3), 128, np.uint8)
    answer = client.classify(grey, options.model, options.precision, options.top_k)
    return {"format": row_format.name, "top_k": options.top_k} | _model_of(answer)


class Run:
    """One run over all images."""

    def __init__(
        self,
        client: InceptionClient,
        options: argparse.Namespace,
        settings: Settings,
        sink: Sink,
        identity: Identity | None = None,
    ) -> None:
        self._client, self._options, self._settings = client, options, settings
        self._paths, self._sink, self._identity = _paths_of(options), sink, identity
        self._file = sink if isinstance(sink, RowFile) else None
        self._counts = Counts()
        self._under_way: deque[str] = deque()
        self._interruption = Interruption(self._paths.end)
        self._max_unanswered = UNANSWERED_BATCHES * (options.batch_size or _USUAL_BATCH_SIZE)

    def code(self) -> int:
        """Do it all; returns the exit code."""
        progress = self._progress()
        reporter = Reporter(progress, self._settings)
        started_s = time.monotonic()
        ended_by: int | None = None
        try:
            with progress, self._interruption:
                self._stream(progress, reporter)
        except (KeyboardInterrupt, Interrupted):
            ended_by = INTERRUPTED
        except InceptionError as error:
            reporter.close()
            ended_by = reporter.ended_by(error)
        else:
            ended_by = INTERRUPTED if self._interruption.is_wanted else None
            for unreadable in self._paths.unreadable:
                reporter.image_failed(unreadable)
        reporter.close()
        if ended_by is None:
            self._sink.finish()
        duration_s = time.monotonic() - started_s
        summarise(self._counts, self._paths, self._file, duration_s, is_ended=ended_by is None)
        if ended_by is not None:
            return ended_by
        has_bad_before = self._file is not None and self._file.bad_before > 0
        is_nothing_named = not (self._counts.done or self._counts.skipped or self._paths.unreadable)
        if is_nothing_named:
            say(f"no images: nothing to classify in {' '.join(self._options.paths)}")
        return max(reporter.worst, InvalidImage.exit_code if has_bad_before or is_nothing_named else 0)

    def _progress(self) -> Progress:
        # Rows that appear on the same terminal are progress enough.
        if self._file is None and sys.stdout.isatty():
            return Lines(sys.stderr, None)
        if STDIN in self._options.paths:
            return progress_on(sys.stderr, None)
        others = ImagePaths(self._options.paths, is_recursive=self._options.recursive, stdin=None)
        return progress_on(sys.stderr, lambda: sum(1 for _ in others))

    def _stream(self, progress: Progress, reporter: Reporter) -> None:
        options, counts = self._options, self._counts
        outcomes = self._client.classify_many(
            self._claimed(),
            options.model,
            options.precision,
            options.top_k,
            window=options.window,
            batch_size=options.batch_size,
            on_error="return",
        )
        for outcome in outcomes:
            self._settle(self._under_way.popleft(), outcome, reporter)
            progress.update(counts.done, counts.errors, counts.skipped)

    def _claimed(self) -> Iterator[str]:
        self._interruption.is_worth_waiting = True
        for image in self._paths:
            if self._interruption.is_wanted:
                return
            if self._sink.claim(image):
                self._under_way.append(image)
                yield image
            else:
                self._counts.skipped += 1

    def _settle(self, image: str, outcome: Outcome, reporter: Reporter) -> None:
        if isinstance(outcome, InceptionError) and isinstance(outcome.__cause__, InceptionError):
            outcome = outcome.__cause__  # as it was before it got its index: here, images have names
        if isinstance(outcome, _OF_A_BATCH) and self._options.batch_size != 1:
            outcome = self._alone(image)
        if isinstance(outcome, Classification):
            self._check_same_model(outcome)
            self._sink.write(image, outcome)
            self._counts.answered += 1
            self._counts.unanswered_in_a_row = 0
        elif isinstance(outcome, UnreadableImage):
            self._counts.unreadable += 1
            reporter.image_failed(outcome)
        elif isinstance(outcome, InvalidImage):
            self._sink.write(image, outcome)
            self._counts.bad += 1
            reporter.image_failed(outcome)
        else:
            self._counts.unanswered += 1
            self._counts.unanswered_in_a_row += 1
            if self._counts.unanswered_in_a_row >= self._max_unanswered:
                raise outcome
            reporter.image_failed(outcome, image)

    def _alone(self, image: str) -> Outcome:
        try:
            return self._client.classify(image, self._options.model, self._options.precision, self._options.top_k)
        except InceptionError as error:
            return error

    def _check_same_model(self, answer: Classification) -> None:
        if self._identity is None:
            return
        found = _model_of(answer)
        if any(self._identity[name] != value for name, value in found.items()):
            raise ReplacedOnServer(
                f"the server now answers with {found['served_name']} release {found['release']}, and the rows so far "
                f"are of {self._identity['served_name']} release {self._identity['release']}: they would not belong "
                "together; begin another --output"
            )


def _paths_of(options: argparse.Namespace) -> ImagePaths:
    return ImagePaths(
        options.paths,
        is_recursive=options.recursive,
        stdin=sys.stdin.buffer if STDIN in options.paths and sys.stdin is not None else None,
        separator=b"\0" if options.null else b"\n",
    )


def _model_of(answer: Classification) -> dict[str, str | int | None]:
    return {"served_name": answer.served_name, "release": answer.release, "emulated": answer.emulated}


def _text(image: str, result: Classification) -> str:
    emulated = f", emulated: {result.emulated}" if result.emulated else ""
    first = f"{image}  {result.served_name}, release {result.release}{emulated}, {result.timings.total_ms:.1f} ms"
    return "\n".join((first, *(f"  {prediction}" for prediction in result.predictions)))
