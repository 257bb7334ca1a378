"""What can go wrong between a picture and its labels, and at which arrow.

    image -> RGB -> crop -> request -> tritonserver -> reply -> Classification

    InceptionError               exit code 1: our fault or the environment's
     |- InvalidImage             2  image -> RGB: not a picture we read, damaged, too large or too small
     |- InvalidRequest           2  the call itself: options, address, token, or the server refused its form
     |   `- UnknownModel         2  the server serves no such model; the message lists what it serves
     |- ServerUnavailable        1  nobody answers at that address, or the model is not ready
     |- DeadlineExceeded         1  no answer within `timeout_s`
     |- Overloaded               1  the server's queue is full, or the request waited in it too long
     |- NotAllowed               1  a restricted call, and the token is missing or wrong
     |- InferenceFailed          1  the model failed on this request
     |- BadResponse              4  the reply, or the model's own description, is not what it must be
     |- PreprocessMismatch       4  the model wants a preprocessing that this client does not do
     `- ClientClosed             1  the client was used after `close()`

Every message says what happened, what was expected and what to do. A server's own words are cut to one short line
without file paths, see `transport.cleaned`.
"""


class InceptionError(Exception):
    """Base of everything the client raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InvalidImage(InceptionError):
    """The image cannot be classified: not a JPEG, PNG or WEBP, damaged, or outside the limits of `images`."""

    exit_code = 2


class InvalidRequest(InceptionError):
    """The call was wrong in itself: sending it again will not help."""

    exit_code = 2


class UnknownModel(InvalidRequest):
    """The server serves no such model; the message lists what it does serve."""


class ServerUnavailable(InceptionError):
    """Nobody answers at that address, the connection broke, or the model is not ready."""


class DeadlineExceeded(InceptionError):
    """There was no answer within `timeout_s`. The server may have done the work all the same."""


class Overloaded(InceptionError):
    """The server shed this request: its queue is full, or the request waited in it for too long."""


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
