"""Log-densities by dimension, whose derivatives are written out, against automatic ones."""

import torch
from torch import Tensor
from torch.distributions import Normal

from ppl_vae.objectives.divergences.marginals import log_marginals


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    codes = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    mean = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    variance = (torch.rand(5, 3, dtype=torch.float64) + 0.1).requires_grad_()
    shares = torch.rand(4, 5, dtype=torch.float64).log().requires_grad_()
    return codes, mean, variance, shares


def test_values_are_the_definition() -> None:
    codes, mean, variance, shares = given()
    densities = Normal(mean, variance.sqrt()).log_prob(codes[:, None])
    expected = torch.logsumexp(shares[..., None] + densities, 1)
    torch.testing.assert_close(log_marginals(codes, mean, variance, shares), expected)


def test_gradients_are_those_of_the_values() -> None:
    assert torch.autograd.gradcheck(log_marginals, given())
    assert torch.autograd.gradgradcheck(log_marginals, given())


def test_a_pair_that_does_not_count_passes_nothing() -> None:
    codes, mean, variance, shares = given()
    shares = shares.detach()
    shares[:, 2] = -torch.inf
    found = log_marginals(codes, mean, variance, shares)
    kept = [0, 1, 3, 4]
    expected = log_marginals(codes, mean[kept], variance[kept], shares[:, kept])
    torch.testing.assert_close(found, expected)
    for grad in torch.autograd.grad(found.sum(), [mean, variance]):
        assert not grad[2].any()
        assert grad[kept].all()


def test_many_at_once() -> None:
    every = tuple(torch.stack([t.detach()] * 2) for t in given())
    torch.testing.assert_close(torch.vmap(log_marginals)(*every)[1], log_marginals(*given()))
