"""What a run of `classify` says on standard error: its errors, each by name up to a number, and one line at its end."""

from __future__ import annotations

from dataclasses import dataclass

from client.errors import InceptionError, ServerUnavailable
from client.image_paths import ImagePaths
from client.progress import Progress, say
from client.row_file import RowFile
from client.settings import Settings

MAX_NAMED_ERRORS = 20


@dataclass
class Counts:
    """What became of the images so far; `skipped` had a row before, or were named twice, `unreadable` may get one."""

    answered: int = 0
    bad: int = 0
    unreadable: int = 0
    unanswered: int = 0
    skipped: int = 0
    unanswered_in_a_row: int = 0

    @property
    def done(self) -> int:
        """Images of this run, whatever became of them."""
        return self.answered + self.errors

    @property
    def errors(self) -> int:
        """Images without an answer."""
        return self.bad + self.unreadable + self.unanswered


class Reporter:
    """Names errors on standard error, the first `MAX_NAMED_ERRORS` of images; `worst` is their highest exit code."""

    def __init__(self, progress: Progress, settings: Settings) -> None:
        self._progress, self._settings = progress, settings
        self._errors = 0
        self.worst = 0

    def image_failed(self, error: InceptionError, image: str | None = None) -> None:
        """Name the error of one image; `image` where its message does not say which."""
        self.worst = max(self.worst, error.exit_code)
        self._errors += 1
        if self._errors <= MAX_NAMED_ERRORS:
            name = f"{image}: " if image is not None else ""
            self._progress.line(f"{type(error).__name__}: {name}{error}")

    def ended_by(self, error: InceptionError) -> int:
        """Name the error that ends the run, and return its exit code."""
        say(f"{type(error).__name__}: {error}")
        if isinstance(error, ServerUnavailable):
            say(f"the address {self._settings.url} came from {self._settings.url_origin}")
        return error.exit_code

    def close(self) -> None:
        """Say how many errors were not named."""
        if self._errors > MAX_NAMED_ERRORS:
            say(f"and {self._errors - MAX_NAMED_ERRORS} more such errors")
            self._errors = 0


def summarise(counts: Counts, paths: ImagePaths, file: RowFile | None, duration_s: float, *, is_ended: bool) -> None:
    """One line of figures, and what is to be known or done about them; nothing where one image was shown."""
    is_one_image = counts.done == len(paths.arguments) == 1 and not (paths.other_files or paths.other_directories)
    if file is None and (is_one_image or not (counts.done or is_ended)):
        return
    parts = [f"{counts.answered} answered"]
    parts += [f"{counts.bad} bad"] if counts.bad else []
    parts += [f"{counts.unreadable} not readable"] if counts.unreadable else []
    parts += [f"{counts.unanswered} not answered"] if counts.unanswered else []
    parts += [f"{counts.skipped} done before"] if counts.skipped else []
    parts += [f"{paths.other_files} other files left out"] if paths.other_files else []
    if paths.other_directories:
        parts.append(f"{paths.other_directories} directories not looked into (--recursive does)")
    where = f"{file.path}: " if file is not None else ""
    early = "" if is_ended else "ended early, "
    say(f"{where}{early}{', '.join(parts)}; {counts.done / duration_s:.1f} images/s")
    if file is None:
        return
    if file.rows_before > counts.skipped and is_ended:
        say(f"{file.rows_before - counts.skipped} of its rows are of images not named now")
    if file.bad_before:
        say(f"{file.bad_before} of the rows before are of bad images")
    if not is_ended or counts.unanswered or counts.unreadable:
        say("what is missing is done by the same command with --resume")
