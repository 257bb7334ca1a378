"""What can go wrong between a repository folder and a server that has answered one inference per model.

    tritonserver binary -> flags -> process -> loaded models -> one inference each -> run/serving.json

    ServingError                      exit code 1: our fault or the environment's
     |- UsageError                    2  options that contradict each other or name something that does not exist
     |- ServerNotFound                1  no tritonserver on PATH and no nvidia-pytriton wheel
     |- UnsupportedEnvironment        1  a tritonserver is there, but this Python, numpy or GPU cannot go with it
     |- RepositoryInvalid             4  a model folder that would fail to load, named before the server starts
     |- PlanMissing                   3  the TensorRT plan of this GPU has to be built on this GPU first
     |- PortInUse                     1  another program listens where the server should
     |- AlreadyRunning                1  this run directory belongs to a server that is still alive
     |- ModelFailed                   1  the server would not load a model, or its first inference failed
     |- StartTimeout                  1  the server lives but has not become ready in time
     |- ServerDied                    1  the server process ended without being asked
     |- NotRunning                    1  there is no server to talk to or to stop
     `- Unhealthy                     4  a running server fails the inference of a model

Every message says what happened, what was expected and what to do. `probe.py` stands alone (it is also the container
health check), so its `ProbeFailed` is not in this tree: callers turn it into `ModelFailed` or `Unhealthy`.
"""


class ServingError(Exception):
    """Base of everything this package raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(ServingError):
    """The options given contradict each other or name something that does not exist."""

    exit_code = 2


class ServerNotFound(ServingError):
    """There is no tritonserver on this machine."""


class UnsupportedEnvironment(ServingError):
    """A tritonserver was found, but something else on this machine keeps it from serving."""


class RepositoryInvalid(ServingError):
    """The repository cannot be served; found before the server was started."""

    exit_code = 4


class PlanMissing(ServingError):
    """A model has no TensorRT plan for the GPU of this machine."""

    exit_code = 3


class PortInUse(ServingError):
    """Another program listens on `port`, which the server needs."""

    def __init__(self, message: str, port: int | None = None) -> None:
        super().__init__(message)
        self.port = port


class AlreadyRunning(ServingError):
    """Another live server holds this run directory."""


class ModelFailed(ServingError):
    """A model did not load, or its first inference was refused; the message carries the reason in one line."""


class StartTimeout(ServingError):
    """The server process lives, but not every model has answered within the time given."""


class ServerDied(ServingError):
    """The server process ended without being asked."""


class NotRunning(ServingError):
    """No live server belongs to this run directory."""


class Unhealthy(ServingError):
    """A running server does not answer the inference of at least one model."""

    exit_code = 4
