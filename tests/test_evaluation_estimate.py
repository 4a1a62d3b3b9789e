"""The two means and their errors, against numbers worked out by hand."""

import math

import pytest
import torch

from ppl_vae.evaluation.estimate import mean_of, mean_over_rows


def test_a_mean_over_rows_has_the_error_of_its_draws_and_that_of_its_data() -> None:
    # Row means 2, 4 and 6; variances within rows 2, 8 and 18, so sum / k = 14; between rows 4.
    values = torch.tensor([[1.0, 3.0], [2.0, 6.0], [3.0, 9.0]])
    estimate = mean_over_rows(values, bound="upper", note="of three")
    assert estimate.value == pytest.approx(4.0, abs=1e-12)
    assert estimate.standard_error == pytest.approx(math.sqrt(14) / 3, abs=1e-12)
    assert estimate.data_error == pytest.approx(2 / math.sqrt(3), abs=1e-12)
    assert (estimate.bound, estimate.note) == ("upper", "of three")
    assert mean_over_rows(values, sign=-1).value == -estimate.value
    assert mean_over_rows(values, sign=-1).standard_error == estimate.standard_error


def test_draws_that_agree_are_a_closed_form_and_a_single_one_tells_no_error_apart() -> None:
    rows = torch.tensor([2.0, 4.0, 6.0])
    closed = mean_over_rows(rows[:, None].expand(3, 5))
    assert (closed.value, closed.standard_error) == (4.0, 0.0)
    assert closed.data_error == pytest.approx(2 / math.sqrt(3), abs=1e-12)
    single = mean_over_rows(rows[:, None])
    assert single.standard_error == single.data_error == closed.data_error
    assert mean_over_rows(rows[None]).data_error is None
    independent = mean_of(rows)
    assert independent.value == 4.0
    assert independent.standard_error == independent.data_error == closed.data_error


def test_a_mean_of_single_precision_is_summed_in_double() -> None:
    # The mean of squares less the square of the mean would be lost in single precision.
    values = 1e4 + torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert mean_over_rows(values).standard_error == pytest.approx(math.sqrt(0.5) / 2, abs=1e-12)
