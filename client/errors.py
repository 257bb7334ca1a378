"""What can go wrong between a picture and its labels, and at which arrow.

    image -> RGB -> crop -> request -> tritonserver -> reply -> Classification

    InceptionError               exit code 1: our fault or the environment's
     |- InvalidImage             2  image -> RGB: not a picture we read, damaged, too large or too small
     |   `- UnreadableImage      2  this machine could not read it now; another try may do better
     |- InvalidRequest           2  the call itself: options, address, token, or the server refused its form
     |   |- UnknownModel         2  the server serves no such model; the message lists what it serves
     |   `- RegionLost           2  the server does not know the shared memory that a request lies in
     |- ServerUnavailable        1  nobody answers at that address, the connection broke, or the model is not ready
     |   `- TlsFailed            1  the encrypted connection could not be made
     |- DeadlineExceeded         1  no answer within `timeout_s`
     |- Overloaded               1  the request waited in the server's queue for too long
     |   `- QueueFull            1  the server's queue is full: refused at once
     |- SomeFailed               *  some images of a batch: the code of the worst; the others' results are in it
     |- NotAllowed               1  a restricted call, and the token is missing or wrong
     |- InferenceFailed          1  the model failed on this request
     |- BadResponse              4  the reply, or the model's own description, is not what it must be
     |- PreprocessMismatch       4  the model wants a preprocessing that this client does not do
     `- ClientClosed             1  the client was used after `close()`

Every message says what happened, what was expected and what to do. A server's own words are cut to one short line
without file paths, see `mapping.cleaned`. Only `ServerUnavailable` (but not `TlsFailed`) and `QueueFull` are tried
again, by `retries`: those alone say that the same request may do better in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.results import Classification


class InceptionError(Exception):
    """Base of everything the client raises on purpose.

    `exit_code` is what the command line returns, `is_retryable` whether the same request may do better in a moment;
    `index` is the position of the image among several, None for an error that is not one image's.
    """

    exit_code = 1
    is_retryable = False
    index: int | None = None


class InvalidImage(InceptionError):
    """The image cannot be classified: not a JPEG, PNG or WEBP, damaged, or outside the limits of `images`."""

    exit_code = 2


class UnreadableImage(InvalidImage):
    """The image could not be read for this machine's reasons: it is not there, may not be read, or something ran out.

    Another try may do better, and is the caller's to make.
    """


class InvalidRequest(InceptionError):
    """The call was wrong in itself: sending it again will not help."""

    exit_code = 2


class UnknownModel(InvalidRequest):
    """The server serves no such model; the message lists what it does serve."""


class RegionLost(InvalidRequest):
    """The server does not know the shared memory that the request lies in, even after it was told again."""


class ServerUnavailable(InceptionError):
    """Nobody answers at that address, the connection broke, or the model is not ready."""

    is_retryable = True


class TlsFailed(ServerUnavailable):
    """The encrypted connection could not be made: a certificate, or a port that does not speak TLS."""

    is_retryable = False


class DeadlineExceeded(InceptionError):
    """There was no answer within `timeout_s`. The server may have done the work all the same."""


class Overloaded(InceptionError):
    """The server shed this request: it waited in the queue for too long."""


class QueueFull(Overloaded):
    """The server shed this request at once, because its queue is full."""

    is_retryable = True


class SomeFailed(InceptionError):
    """Some images of a batch could not be classified; the others were.

    `results` has, in the order of the images, the `Classification` or the error of each; `exit_code` is the highest
    of the errors'.
    """

    def __init__(self, results: Sequence[Classification | InceptionError]) -> None:
        self.results = tuple(results)
        errors = [each for each in results if isinstance(each, InceptionError)]
        super().__init__(
            f"{len(errors)} of {len(self.results)} images failed, the others were answered (see `results`); the first: "
            f"{errors[0]}"
        )
        self.exit_code = max(error.exit_code for error in errors)

    def __reduce__(self) -> tuple[type[SomeFailed], tuple[tuple[Classification | InceptionError, ...]]]:
        """From one process to another, as from a pool, with its results."""
        return type(self), (self.results,)


class NotAllowed(InceptionError):
    """The call is restricted on this server, and the token is missing or wrong."""


class InferenceFailed(InceptionError):
    """The model failed on this request; the server's log says why."""


class BadResponse(InceptionError):
    """The reply, or the model's description of itself, breaks the contract."""

    exit_code = 4


class PreprocessMismatch(InceptionError):
    """The model wants a preprocessing that this client does not implement, or its description was altered."""

    exit_code = 4


class ClientClosed(InceptionError):
    """The client was used after `close()`."""
