"""Network bodies: shapes both ways, batch dimensions, gradients, refusals."""

from functools import partial

import pytest
import torch
from torch import nn

from ppl_vae.bodies import DCGAN, MLP, ResNet
from ppl_vae.bodies.body import apply_body, inverse_softplus, positive

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 12, 20)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("body", [MLP, DCGAN, ResNet])
def test_shapes_both_ways(body, image):
    for inputs, outputs in ((image, (7,)), ((7,), image), (image, (2, 3)), ((2, 3), image)):
        network = body(torch.Size(inputs), torch.Size(outputs)).double()
        y = network(torch.randn(3, *inputs, dtype=torch.double))
        assert y.shape == (3, *outputs)
        assert y.dtype == torch.double


@pytest.mark.parametrize(
    "body",
    [
        partial(MLP, hidden=()),
        partial(MLP, hidden=[5, 4, 3], activation="tanh"),
        partial(DCGAN, channels=[4], features=6, activation="leaky_relu"),
        partial(DCGAN, channels=(4, 5, 6), batch_norm=True),
        partial(ResNet, channels=(4,), blocks=0),
        partial(ResNet, channels=(4, 5, 6), blocks=1, activation="gelu"),
    ],
)
@pytest.mark.parametrize(("inputs", "outputs"), [((1, 8, 8), (5,)), ((5,), (1, 8, 8))])
def test_gradients_reach_all_parameters(body, inputs, outputs):
    network = body(inputs, outputs)
    network(torch.randn(6, *inputs)).square().sum().backward()
    for name, parameter in network.named_parameters():
        bias_before_norm = isinstance(body, partial) and body.keywords.get("batch_norm")
        if not (bias_before_norm and name.endswith("0.bias")):
            assert parameter.grad.abs().sum() > 0, name


def test_mlp_without_hidden_layers_is_affine():
    network = MLP((3,), (2,), hidden=())
    x, y = torch.randn(3), torch.randn(3)
    f = lambda v: network(v[None])[0]  # noqa: E731
    torch.testing.assert_close(f(x + y) + f(torch.zeros(3)), f(x) + f(y))


def test_residual_blocks_start_near_the_identity():
    shallow, deep = (ResNet((5,), (1, 8, 8), blocks=b) for b in (0, 4))
    own = [p for n, p in deep.named_parameters() if "branch" not in n]
    with torch.no_grad():
        for p, q in zip(shallow.parameters(), own, strict=True):
            p.copy_(q)
    x = torch.randn(4, 5)
    torch.testing.assert_close(deep(x), shallow(x), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,), (2, 0)])
def test_apply_body_keeps_batch_dimensions(batch):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    x = torch.randn(*batch, 1, 5, 5)
    y = apply_body(network, x, (1, 5, 5))
    assert y.shape == (*batch, 18)
    if 0 not in batch:
        flat = network(x.reshape(-1, 1, 5, 5))
        torch.testing.assert_close(y.reshape(-1, 18), flat)


def test_apply_body_names_the_shape_it_wants():
    with pytest.raises(ValueError, match=r"\(\.\.\., 1, 5, 5\), got \(4, 25\)"):
        apply_body(nn.Identity(), torch.zeros(4, 25), (1, 5, 5))
    with pytest.raises(ValueError, match="expected"):
        apply_body(nn.Identity(), torch.zeros(5), (1, 5))


@pytest.mark.parametrize("body", [DCGAN, ResNet])
@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((64,), (10,), "use MLP"),
        ((1, 30, 30), (10,), "divisible by 4, got 30x30"),
        ((10,), (1, 28, 30), "divisible by 4, got 28x30"),
    ],
)
def test_convolutions_say_what_they_need(body, inputs, outputs, message):
    with pytest.raises(ValueError, match=message):
        body(inputs, outputs)
    with pytest.raises(ValueError, match="at least one"):
        body((1, 28, 28), (10,), channels=())


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="relu, silu"):
        MLP((2,), (2,), activation="swish")


@pytest.mark.parametrize(
    ("start", "floor"), [(1.0, 1e-6), (0.135, 0.005), (50.0, 0.0), (1e-3, 1e-4)]
)
def test_positive_starts_where_told_and_stays_above_its_floor(start, floor):
    raw = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0], requires_grad=True)
    s = positive(raw, start, floor)
    torch.testing.assert_close(s[2].item(), start, rtol=1e-5, atol=0)
    assert (s >= floor).all()
    assert (s.diff() > 0).all()
    assert s[-1] < 300
    (grad,) = torch.autograd.grad(s.sum(), raw)
    assert torch.isfinite(grad).all()


def test_inverse_softplus():
    for y in (1e-8, 0.1, 1.0, 30.0, 800.0):
        x = torch.tensor(inverse_softplus(y), dtype=torch.double)
        torch.testing.assert_close(nn.functional.softplus(x).item(), y, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="floor"):
        inverse_softplus(0.0)
