"""Weights of rows and pairs against their definition, pair by pair."""

import pytest
import torch

from ppl_vae.objectives.divergences.weighting import (
    cross_weights,
    normalised,
    pair_total,
    pair_weights,
)

WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 3.0])
GROUPS = torch.tensor([0, 1, 1, 0])


def test_normalised_weights_sum_to_one_and_zeros_stay() -> None:
    torch.testing.assert_close(normalised(WEIGHTS), WEIGHTS / 5.5)
    assert normalised(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("diagonal", [False, True])
def test_pairs_of_one_datum_weigh_nothing(groups: torch.Tensor | None, diagonal: bool) -> None:
    w, same = WEIGHTS.tolist(), GROUPS.tolist()
    expected = [
        [
            w[i] * w[j] * ((diagonal or i != j) if groups is None else same[i] != same[j])
            for j in range(4)
        ]
        for i in range(4)
    ]
    pairs = pair_weights(WEIGHTS, groups, diagonal)
    assert pairs.tolist() == expected
    if not diagonal or groups is not None:
        torch.testing.assert_close(pair_total(WEIGHTS, groups), pairs.sum())


def test_an_aligned_draw_is_not_paired_with_its_row() -> None:
    assert cross_weights(WEIGHTS, 2, aligned=False).tolist() == [[w, w] for w in WEIGHTS.tolist()]
    aligned = cross_weights(WEIGHTS, 8, aligned=True)
    zeros = (aligned == 0).nonzero().tolist()
    assert all(i == 2 or j % 4 == i for i, j in zeros)  # row 2 has no weight
    torch.testing.assert_close(aligned.sum(1), 6 * WEIGHTS)
