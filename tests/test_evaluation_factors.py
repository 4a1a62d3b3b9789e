"""Factor data, measures of disentanglement, and path length."""

import math
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import evaluation as ev
from ppl_vae.data import FactorData, FadingSquares, Sprites


def test_sprites_are_what_their_factors_say():
    data = Sprites(size=32, scales=3, rotations=8, positions=16)
    assert data.levels == (3, 3, 8, 16, 16)
    g = torch.Generator().manual_seed(0)
    x, factors = data.sample(400, g)
    assert x.shape == (400, 1, 32, 32)
    assert x.min() == 0
    assert x.max() <= 1
    # No sprite is cut off by the border.
    assert not x[..., 0, :].any()
    assert not x[..., :, 0].any()
    assert not x[..., -1, :].any()
    assert not x[..., :, -1].any()
    # The centre of mass follows x and y; the area follows scale.
    grid = (torch.arange(32) + 0.5) / 32
    area = x.sum((1, 2, 3))
    across = (x * grid).sum((1, 2, 3)) / area
    down = (x * grid[:, None]).sum((1, 2, 3)) / area
    assert (across - (0.22 + 0.56 * factors[:, 3] / 15)).abs().max() < 0.03
    assert (down - (0.22 + 0.56 * factors[:, 4] / 15)).abs().max() < 0.03
    # A square's area is (2 * .85 r)^2, an ellipse's .6 pi r^2.
    radius = 0.15 * (0.5 + 0.25 * factors[:, 1]) * 32
    for kind, unit in ((0, (2 * 0.85) ** 2), (1, 0.6 * math.pi)):
        chosen = factors[:, 0] == kind
        ratio = area[chosen] / (unit * radius[chosen] ** 2)
        assert (ratio - 1).abs().max() < 0.1
    again, _ = data.sample(400, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    one, other = torch.tensor([[2, 2, 0, 8, 8]]), torch.tensor([[2, 2, 3, 8, 8]])
    assert (data.render(one) - data.render(other)).abs().max() > 0.5


def test_every_sprite_factor_shows():
    data = Sprites(size=32, scales=3, rotations=7, positions=4)
    base = torch.tensor([[0, 1, 0, 1, 1]])
    for k in range(5):
        moved = base.clone()
        moved[0, k] += 1
        assert (data.render(base) - data.render(moved)).abs().sum() > 1


def test_bad_factors():
    with pytest.raises(ValueError, match="in the order shape, scale, rotation, x, y"):
        Sprites().render(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="below the levels"):
        Sprites().render(torch.tensor([[3, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="FadingSquares: side is 9, above the size, 8"):
        FadingSquares(size=8, side=9)


def test_fading_squares():
    data = FadingSquares(size=10, side=4, levels=5)
    path = data.path()
    assert path.shape == (5, 1, 10, 10)
    assert torch.allclose(path.sum((1, 2, 3)), torch.arange(5) / 4 * 16)
    assert torch.equal(path[:, 0, 5, 5], torch.arange(5) / 4)
    assert path[:, 0, 2, 5].any() == torch.tensor(False)


@pytest.mark.parametrize("kind", [Sprites, FadingSquares])
def test_rows_are_images_at_random_factors(kind):
    data = kind(size=16, n=50, seed=3)
    images, factors = data.sample(60, torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([data.train, data.test]), images)
    assert data.size == (1, 16, 16)
    assert not torch.equal(kind(size=16, n=50, seed=4).train, data.train)
    if kind is Sprites:
        assert torch.equal(torch.cat([data.train_labels, data.test_labels]), factors[:, 0])
        assert data.classes == ("square", "ellipse", "heart")
    with pytest.raises(ValueError, match="n must be a whole number of at least 5, got 4"):
        kind(n=4)


class Blocks(FactorData):
    """Images that are the factors themselves, in [0, 1]."""

    names = ("a", "b", "c")
    levels = (5, 7, 6)
    size = torch.Size((1, 1, 3))

    def render(self, factors):
        return (factors / (torch.tensor(self.levels) - 1))[:, None, None, :]


def pair(weight):
    """A guide that maps the factors linearly, with a nearly unused fourth code."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :3], 1.0).to_event(1), obs=x.flatten(1))

    def guide(x):
        loc = torch.nn.functional.pad(x.flatten(1) @ weight.T, (0, 1), value=0.3)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.1).to_event(1))

    return model, guide


@pytest.fixture(scope="module")
def scores():
    aligned = torch.diag(torch.tensor([1.0, -2.0, 0.5]))[[2, 0, 1]]
    mixed = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    return [ev.disentanglement(*pair(w), Blocks(), num_data=2000) for w in (aligned, mixed)]


def test_aligned_codes_score_near_one(scores):
    found = scores[0]
    assert set(found) == {
        "mig",
        "sap",
        "dci_disentanglement",
        "dci_completeness",
        "dci_informativeness",
        "factor_vae",
    }
    assert found["mig"].value > 0.97
    assert found["factor_vae"].value == 1
    assert "3 active units" in found["factor_vae"].note
    assert found["dci_disentanglement"].value > 0.95
    assert found["dci_completeness"].value > 0.95
    assert found["dci_informativeness"].value > 0.99
    assert found["sap"].value > 0.1


def test_mixed_codes_score_lower(scores):
    aligned, mixed = scores
    # A vote survives mixing as long as every factor has a dimension that it moves least.
    assert mixed["factor_vae"].value < 1
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        low, high = mixed[name], aligned[name]
        error = math.hypot(low.standard_error or 0.02, high.standard_error or 0.02)
        assert high.value - low.value > 4.5 * error, name


def test_mig_of_known_information():
    # z1 tells factor v with error e, z2 tells nothing, and the histogram keeps both apart.
    g = torch.Generator().manual_seed(0)
    n, e = 20_000, 0.2
    v = torch.randint(2, (n,), generator=g)
    flip = torch.rand(n, generator=g) < e
    z = torch.stack([(v ^ flip).float(), torch.randint(2, (n,), generator=g).float()], 1)
    found = ev.mig(z, v[:, None])
    truth = 1 + (e * math.log(e) + (1 - e) * math.log(1 - e)) / math.log(2)
    assert abs(found.value - truth) < 4.5 * found.standard_error
    # The jackknife against the spread over runs: delta method, V[log p] / n.
    spread = math.sqrt(e * (1 - e)) * math.log((1 - e) / e) / math.log(2) / math.sqrt(n)
    assert 0.4 < found.standard_error / spread < 2.5


def test_bad_codes():
    with pytest.raises(ValueError, match="two of them or more"):
        ev.mig(torch.randn(5, 1), torch.zeros(5, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"codes \(5, 2\) and factors \(5,\)"):
        ev.sap(torch.randn(5, 2), torch.zeros(5, dtype=torch.long))


def leveled(n, levels=(3, 6), noise=0.01, seed=0):
    """Codes that tell one factor each, and the factors."""
    g = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.randint(0, k, (n,), generator=g) for k in levels], 1)
    return factors + noise * torch.randn(n, len(levels), generator=g), factors


def all_scores(z, factors):
    found = {"mig": ev.mig(z, factors), "sap": ev.sap(z, factors), **ev.dci(z, factors, trees=5)}
    return {name: score.value for name, score in found.items()}


def test_a_factor_that_does_not_vary_changes_no_score():
    """Its entropy is a rounding residue: above 0 at some n, and a share of it is anything."""
    z, factors = leveled(400)
    constant = torch.full((400, 1), 3)
    assert all_scores(z, torch.cat([constant, factors], 1)) == all_scores(z, factors)
    for n in (1000, 4096, 10_000):
        z, factors = leveled(n)
        more = torch.cat([torch.zeros(n, 1, dtype=torch.long), factors], 1)
        assert ev.mig(z, more) == ev.mig(z, factors)

    class Grey(Blocks):
        levels = (1, 1, 1)

    with pytest.raises(ValueError, match="no factor varies"):
        ev.factor_vae_score(torch.flatten, Grey())


def test_factors_of_any_type_are_read_by_their_values():
    z, factors = leveled(400)
    expected = all_scores(z, factors)
    for other in (
        factors.float(),
        factors.bfloat16(),
        factors.to(torch.uint8),
        factors * 0.25 - 1,
        factors.numpy(),
    ):
        assert all_scores(z, other) == expected
    assert all_scores(z, factors > 1) == all_scores(z, (factors > 1).long())


def test_a_value_seen_once():
    z, factors = leveled(300)
    for row in (0, 1, 2, 3):  # in either half
        rare = torch.zeros(300, 1, dtype=torch.long)
        rare[row] = 1
        more = all_scores(z, torch.cat([factors, rare], 1))
        assert all(math.isfinite(score) for score in more.values())
    # Without the group of its one other value the factor has no gap, and the jackknife no error.
    alone = ev.mig(z, rare)
    assert math.isfinite(alone.value)
    assert alone.standard_error is None


def test_factors_that_cannot_be_scored():
    z, factors = leveled(40)
    for score in (ev.mig, ev.sap, ev.dci):
        with pytest.raises(ValueError, match="factor 0 is continuous, of 40 values in 40 rows"):
            score(z, torch.rand(40, 1))
        with pytest.raises(ValueError, match="no factor of 2 varies in the 40 rows"):
            score(z, factors * 0)
        with pytest.raises(ValueError, match="factors hold values that are not finite"):
            score(z, factors * math.nan)
        with pytest.raises(ValueError, match="codes hold values that are not finite"):
            score(z * math.inf, factors)


def test_the_jackknife_does_not_follow_the_order_of_rows():
    """Of rows in the order of a grid every tenth holds one level: all that the code tells of."""
    cycle = torch.arange(10).repeat(60)
    noise = torch.randn(600, generator=torch.Generator().manual_seed(1))
    z = torch.stack([(cycle == 0) + 0.01 * noise, torch.zeros(600)], 1)
    mixed = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    as_grid, shuffled = ev.mig(z, cycle[:, None]), ev.mig(z[mixed], cycle[mixed, None])
    assert as_grid.value == pytest.approx(shuffled.value)
    # Two jackknives of 10 groups: each relative error is about (2 * 9)^(-1/2).
    assert abs(math.log(as_grid.standard_error / shuffled.standard_error)) < 4.5 / 3


def test_rows_that_were_fitted_are_not_scored():
    """Codes that tell the factor in one half of the rows alone, and noise that trees learn."""
    disentanglement = sys.modules[ev.sap.__module__]
    g = torch.Generator().manual_seed(0)
    n = 400
    factor = torch.randint(0, 2, (n, 1), generator=g)
    train, test, _ = disentanglement._halves(factor.numpy(), 0)
    assert not set(train) & set(test)
    z = torch.randn(n, 2, generator=g)
    z[train, 0] += 6.0 * factor[train, 0]
    assert abs(ev.sap(z, factor).value) < 4.5 * math.sqrt(0.5 / len(test))
    right = ev.dci(z, factor, trees=10)["informativeness"]
    assert abs(right.value - 0.5) < 4.5 * math.sqrt(0.25 / len(test))
    noise = torch.randn(n, 5, generator=g)
    right = ev.dci(noise, factor, trees=10)["informativeness"]
    assert abs(right.value - 0.5) < 4.5 * math.sqrt(0.25 / len(test))


def test_votes_that_choose_do_not_score():
    """Codes of noise: a factor chosen by the votes that are scored would be more than a guess."""
    g = torch.Generator().manual_seed(0)
    found = ev.factor_vae_score(
        lambda x: torch.randn(len(x), 60, generator=g), Blocks(), votes=400, batch=4
    )
    assert abs(found.value - 1 / 3) < 4.5 * math.sqrt(2 / 9 / 200)


def test_dci_of_given_importances(monkeypatch):
    """Three dimensions, two factors: entropies of rows in base 2, of columns in base 3."""
    importances = iter(np.array([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]))

    class Forest:
        def __init__(self, *args, **options):
            self.feature_importances_ = next(importances)

        def fit(self, z, factor):
            return self

        def predict(self, z):
            return np.zeros(len(z))

    monkeypatch.setattr("sklearn.ensemble.RandomForestClassifier", Forest)
    z, factors = leveled(40)
    found = ev.dci(torch.cat([z, z[:, :1]], 1), factors)
    # Shares of all importance 1/3 each, concentrations 0, 1 and 1.
    assert found["disentanglement"].value == pytest.approx(2 / 3)
    entropy = -(math.log(1 / 3) / 3 + 2 / 3 * math.log(2 / 3)) / math.log(3)
    assert found["completeness"].value == pytest.approx(1 - entropy)


def test_path_length_of_a_half_circle():
    data = FadingSquares(size=4, side=2, levels=200)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide(x):
        angle = math.pi * x[:, 0, 2, 2]
        with pyro.plate("data", len(x)):
            loc = 3 * torch.stack([angle.cos(), angle.sin()], 1)
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    found = ev.path_length(model, guide, data.path(), plate="data")
    assert found.value == pytest.approx(3 * math.pi, rel=1e-3)
    assert found.value < 3 * math.pi
    with pytest.raises(ValueError, match="two data or more"):
        ev.path_length(model, guide, data.path()[:1])
