"""Factor data, measures of disentanglement, and path length."""

import math

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
    with pytest.raises(ValueError, match="FadingSquares needs"):
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
    with pytest.raises(ValueError, match="n must be at least 5, got 4"):
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

    found = ev.path_length(model, guide, data.path())
    assert found.value == pytest.approx(3 * math.pi, rel=1e-3)
    assert found.value < 3 * math.pi
    with pytest.raises(ValueError, match="two data or more"):
        ev.path_length(model, guide, data.path()[:1])
