"""Where distributions put their mass, compared."""

import torch

from ppl_vae.training.regions import VECTORS, Region


def test_a_region_holds_one_of_the_same_bounds_and_none_wider() -> None:
    unit = Region(VECTORS, 0.0, 1.0)
    assert unit.holds(unit)
    assert Region(VECTORS).holds(unit)
    assert not unit.holds(Region(VECTORS, -0.1, 1.0))
    assert not unit.holds(Region(VECTORS, 0.0, 1.1))


def test_bounds_by_row_are_compared_by_column() -> None:
    """All rows of the other lie in each row of this one, coordinate by coordinate."""
    low = torch.tensor([[0.0, 1.0, -3.0], [-1.0, 2.0, -4.0]])
    high = torch.tensor([[5.0, 6.0, 0.0], [4.0, 7.0, -1.0]])
    rows = Region(VECTORS, low, high)
    assert rows.holds(
        Region(VECTORS, torch.tensor([0.0, 2.0, -3.0]), torch.tensor([4.0, 6.0, -1.0]))
    )
    assert not rows.holds(
        Region(VECTORS, torch.tensor([-0.5, 2.0, -3.0]), torch.tensor([4.0, 6.0, -1.0]))
    )
    assert not rows.holds(
        Region(VECTORS, torch.tensor([0.0, 2.0, -3.0]), torch.tensor([4.0, 6.0, -0.5]))
    )
