"""What can go wrong in a measurement.

LoadtestError             exit code 1
 |- UsageError         2  options that contradict each other
 `- MeasurementFailed  1  the thing measured did not run, or gave a wrong answer while measured
"""


class LoadtestError(Exception):
    """Base of everything the load tests raise on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(LoadtestError):
    """The options given contradict each other or name something that does not exist."""

    exit_code = 2


class MeasurementFailed(LoadtestError):
    """The thing measured did not run, or gave a wrong answer while it was measured."""
