import pytest

from serving.server_log import LoadFailure, busy_port, ending, last_error, load_failure

# Lines as tritonserver 2.51.0 wrote them, shortened paths.
INITIALIZE_FAILED = r"""
I1124 05:51:29.790814 4767 model_lifecycle.cc:472] "loading: tiny:1"
I1124 05:51:29.944988 4767 pb_stub.cc:366] "Failed to initialize Python stub: ModuleNotFoundError: No module named 'absent'\n\nAt:\n  /r/tiny/1/model.py(12): initialize\n"
E1124 05:51:30.146958 4767 backend_model.cc:692] "ERROR: Failed to create instance: ModuleNotFoundError: No module named 'absent'\n\nAt:\n  /r/tiny/1/model.py(12): initialize\n"
E1124 05:51:30.147049 4767 model_lifecycle.cc:642] "failed to load 'tiny' version 1: Internal: ModuleNotFoundError: No module named 'absent'\n\nAt:\n  /r/tiny/1/model.py(12): initialize\n"
I1124 05:51:30.147063 4767 model_lifecycle.cc:777] "failed to load 'tiny'"
error: creating server: Internal - failed to load all models
"""  # noqa: E501
SYNTAX_ERROR = """
E1124 05:51:28.766461 4747 model_lifecycle.cc:642] "failed to load 'tiny' version 1: Internal: SyntaxError: invalid syntax (model.py, line 1)"
"""  # noqa: E501
BAD_CONFIG = """
[libprotobuf ERROR /tmp/x/google/protobuf/text_format.cc:337] Error parsing text-format inference.ModelConfig: 7:9: Message type "inference.ModelConfig" has no field named "nonsense".
E1124 05:51:51.183017 4832 model_repository_manager.cc:1460] "Poll failed for model directory 'tiny': failed to read text proto from /r/tiny/configs/cpu.pbtxt"
"""  # noqa: E501
NO_VERSION = """
E1124 05:51:52.208813 4845 model_repository_manager.cc:724] "failed to load model 'tiny': at least one version must be available under the version policy of model 'tiny'"
"""  # noqa: E501
NOT_THERE = """
E1124 05:52:34.818601 5568 model_repository_manager.cc:1415] "failed to poll model 'nope': model not found in any model repository."
"""  # noqa: E501
NO_MODEL_FILE = """
I1124 05:51:31.186024 4800 pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file not found in '/r/tiny/1/model.py'
"""  # noqa: E501
PORT_TAKEN = """
E1124 05:51:54.979994 4924 main.cc:257] "failed to start HTTP service: Unavailable - Socket '127.0.0.1:18000' already in use "
I1124 05:51:56.051734 4934 pb_stub.cc:2145]  Non-graceful termination detected.
"""  # noqa: E501
HEALTHY = """
E1124 05:48:48.950137 4558 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 05:48:49.093123 4558 model_lifecycle.cc:839] "successfully loaded 'tiny'"
"""


@pytest.mark.parametrize(
    ("log", "model", "reason"),
    [
        (INITIALIZE_FAILED, "tiny", "Internal: ModuleNotFoundError: No module named 'absent' (model.py, line 12)"),
        (SYNTAX_ERROR, "tiny", "Internal: SyntaxError: invalid syntax (model.py, line 1)"),
        (
            BAD_CONFIG,
            "tiny",
            "failed to read text proto from /r/tiny/configs/cpu.pbtxt: 7:9: "
            'Message type "inference.ModelConfig" has no field named "nonsense".',
        ),
        (
            NO_VERSION,
            "tiny",
            "at least one version must be available under the version policy of model 'tiny'",
        ),
        (NOT_THERE, "nope", "model not found in any model repository."),
        (NO_MODEL_FILE, None, "Python model file not found in '/r/tiny/1/model.py'"),
    ],
)
def test_a_failed_load_is_one_line_with_the_model_and_its_reason(log, model, reason):
    """Out of the log's quoting, escaped line ends and traceback; the first place of the traceback is kept."""
    assert load_failure(log) == LoadFailure(model, reason)


def test_a_healthy_log_has_no_failure():
    """The complaint about CUDA, which every CPU start makes, is not one."""
    assert load_failure(HEALTHY) is None
    assert busy_port(HEALTHY) is None


def test_a_port_taken_by_another_program_is_recognised():
    """By its number, which tells a chosen port from a fixed one."""
    assert busy_port(PORT_TAKEN) == 18000


def test_the_last_error_is_one_line_and_its_absence_is_said():
    """Also for the lines that tritonserver writes without its usual prefix."""
    assert last_error(INITIALIZE_FAILED) == "error: creating server: Internal - failed to load all models"
    assert last_error(PORT_TAKEN).startswith("failed to start HTTP service")
    assert last_error("") == "the log names no error"


def test_the_ending_is_the_last_lines_in_one(tmp_path):
    """Short, so that a page of log does not become a page of message; an empty or absent log is said to be."""
    log = tmp_path / "server.log"
    assert ending(log) == "Its log ends with: (nothing)"
    log.write_text("first\nsecond\n\nthird\n" + "x" * 5000 + "\n")
    assert ending(log) == "Its log ends with: second | third | " + "x" * 200
