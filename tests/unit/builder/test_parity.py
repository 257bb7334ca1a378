"""One tolerance table, one verdict."""

import numpy as np
import pytest

from builder.errors import ParityFailed
from builder.parity import compare, log_probabilities

LOGITS = np.float32([[1.0, 2.0, 3.0], [3.0, -1.0, 0.0]])


def test_equal_answers_pass_with_their_difference():
    """The verdict says what was seen and what was allowed."""
    verdict = compare("x", "fp32", LOGITS, np.exp(log_probabilities(LOGITS)).astype(np.float32))
    assert verdict.max_log_probability_difference < 1e-6
    assert (verdict.tolerance, verdict.top1_agreement) == (2e-3, 1.0)


def test_a_small_difference_in_a_small_probability_is_seen():
    """Probabilities hide it: 1e-4 of 1e-2 is 1e-6; logarithms do not."""
    probabilities = np.exp(log_probabilities(LOGITS))
    probabilities[1, 1] *= 1.01
    with pytest.raises(ParityFailed, match="differ by up to 9"):
        compare("x", "fp32", LOGITS, probabilities.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_what_is_no_probability_fails(value):
    """Not a number compares false with every bound."""
    probabilities = np.exp(log_probabilities(LOGITS)).astype(np.float32)
    probabilities[0, 0] = value
    with pytest.raises(ParityFailed, match="no probabilities"):
        compare("x", "fp32", LOGITS, probabilities)


def test_another_shape_fails():
    """Broadcasting would compare one row with all."""
    with pytest.raises(ParityFailed, match="was expected"):
        compare("x", "fp32", LOGITS, np.full((1, 3), 1 / 3, np.float32))


def test_log_probabilities_do_not_overflow():
    """Logits of a broken network are still compared."""
    assert np.isfinite(log_probabilities(np.float32([[1e4, -1e4]]))).all()
