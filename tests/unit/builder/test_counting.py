"""Three counting rules: the true one against an independent counter, two against PaddleClas's published tables."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from builder.architectures import module_from_spec, without_auxiliary_heads
from builder.catalog import MODELS
from builder.counting import Counts, model_stat_counts, paddle_flops_counts, true_counts

# Learnable parameters and parameters with running statistics, auxiliary heads included: counted in PaddleClas 2.6.0.
EXACT_PARAMS = {
    "GoogLeNet": (11_535_736, 11_535_736),
    "InceptionV3": (23_834_568, 23_869_000),
    "InceptionV4": (42_679_816, 42_742_984),
    "Xception41": (22_919_600, 23_019_920),
    "Xception41_deeplab": (26_969_560, 27_084_872),
    "Xception65": (35_866_352, 36_036_560),
    "Xception65_deeplab": (39_916_312, 40_101_512),
    "Xception71": (37_678_496, 37_856_576),
}


def module_on_meta(name):
    """Shapes only: nothing is initialised, nothing is computed."""
    with torch.device("meta"):
        return module_from_spec(MODELS[name])


def millions(count):
    return round(count / 1e6, 2)


def billions(count):
    return round(count / 1e9, 2)


@pytest.mark.parametrize("name", MODELS)
def test_the_page_of_the_inception_series_is_reproduced_to_both_decimals(name):
    """`model_stat_counts` is the rule behind all 16 figures of PaddleClas's page."""
    spec = MODELS[name]
    counts = model_stat_counts(module_on_meta(name), spec.input_size)
    assert (millions(counts.params), billions(counts.ops)) == (spec.published.params_m, spec.published.flops_g)


@pytest.mark.parametrize("name", MODELS)
def test_the_list_of_all_models_is_reproduced_to_both_decimals(name):
    """`paddle_flops_counts` is the rule behind all 16 figures of PaddleClas's model list."""
    spec = MODELS[name]
    counts = paddle_flops_counts(module_on_meta(name), spec.input_size)
    expected = (spec.published.paddle_params_m, spec.published.paddle_flops_g)
    assert (millions(counts.params), billions(counts.ops)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_exactly_those_counted_in_paddleclas(name):
    """Both ways to count parameters that are no convention agree to the last scalar."""
    spec, module = MODELS[name], module_on_meta(name)
    learnable = true_counts(module, spec.input_size).params
    with_statistics = paddle_flops_counts(module, spec.input_size).params
    assert (learnable, with_statistics) == EXACT_PARAMS[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_catalog_holds_the_true_counts_of_the_served_path(name):
    """A row's `learnable_params` and `macs` are what the network without auxiliary heads has and does."""
    spec = MODELS[name]
    counts = true_counts(without_auxiliary_heads(module_on_meta(name)), spec.input_size)
    assert Counts(spec.learnable_params, spec.macs) == counts


@pytest.mark.parametrize("name", MODELS)
def test_true_operations_agree_with_torchs_own_counter(name):
    """PyTorch counts two operations a multiply-accumulate, by its own means."""
    spec, module = MODELS[name], module_on_meta(name)
    with FlopCounterMode(display=False) as torch_counter:
        module(torch.empty(1, 3, spec.input_size, spec.input_size, device="meta"))
    assert torch_counter.get_total_flops() == 2 * true_counts(module, spec.input_size).ops


def test_operations_follow_the_input_size():
    """GoogLeNet at 299 does 1.76 times the work of 224: PaddleClas's T4 and V100 rows are for different inputs."""
    module = without_auxiliary_heads(module_on_meta("GoogLeNet"))
    assert true_counts(module, 299) == Counts(params=6_991_272, ops=2_525_227_520)


def test_a_module_without_its_auxiliary_heads_is_counted_by_every_rule():
    """What was dropped is neither run nor counted."""
    module = without_auxiliary_heads(module_on_meta("GoogLeNet"))
    head_weights = 1024 * 1000
    assert paddle_flops_counts(module, 299).params == 6_991_272
    assert model_stat_counts(module, 299).params == 6_991_272 - head_weights - 1000  # this rule leaves the head out


def test_counting_leaves_the_module_as_it_is():
    """A module with weights, in training mode, is counted in eval mode and comes back untouched."""
    module = module_from_spec(MODELS["InceptionV3"]).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    true_counts(module, 299)
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
