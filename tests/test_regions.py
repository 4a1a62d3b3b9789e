"""Where distributions put their mass, compared."""

from ppl_vae.training.regions import VECTORS, Region


def test_a_region_holds_one_of_the_same_bounds_and_none_wider() -> None:
    unit = Region(VECTORS, 0.0, 1.0)
    assert unit.holds(unit)
    assert Region(VECTORS).holds(unit)
    assert not unit.holds(Region(VECTORS, -0.1, 1.0))
    assert not unit.holds(Region(VECTORS, 0.0, 1.1))
