import pytest

from serving.probe import Probe, ProbeFailed, main


@pytest.mark.parametrize("url", ["https://host:8000", "http://", "http://host:99999", "http://[::1"])
def test_an_address_that_is_none_is_told_so(url):
    """No traceback, and nothing is asked."""
    with pytest.raises(ProbeFailed, match="is not the address of a server"):
        Probe(url)


def test_a_server_that_is_not_there_is_exit_code_1(capsys):
    """Port 9 of this machine: nobody listens there."""
    assert main(["--url", "http://127.0.0.1:9", "--model", "m", "--timeout-s", "1"]) == 1
    assert "FAILED m: http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
