"""Data and pairs of other types of numbers: taken by all who read a pair, or refused in a line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppl_vae
from ppl_vae import VAE, fit
from ppl_vae.diagnostics import pareto_k, to_arviz
from ppl_vae.evaluation import elbo, mig, mutual_information, nll
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import IWAE, MMD, WAE, Adversarial, InfoVAE
from ppl_vae.priors import StandardNormal
from ppl_vae.using import Trained

X = torch.rand(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def functions(kind: torch.dtype) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """A pair of plain functions, whose modules cannot be seen before it runs."""
    encoder, decoder = torch.nn.Linear(4, 2, dtype=kind), torch.nn.Linear(2, 4, dtype=kind)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=kind), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return model, guide


CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "fit": lambda m, g, x: fit(m, g, x, InfoVAE(MMD()), epochs=1, progress=False),
    "loss": lambda m, g, x: InfoVAE(MMD()).loss_and_grads(m, g, x),
    "IWAE": lambda m, g, x: IWAE(2).loss_and_grads(m, g, x),
    "read": lambda m, g, x: ppl_vae.read(m, g, x),
    "elbo": elbo,
    "nll": nll,
    "mutual information": mutual_information,
    "k-hat": lambda m, g, x: pareto_k(m, g, x, draws=100),
    "ArviZ": to_arviz,
    "encode": lambda m, g, x: Trained(m, g).encode(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("kind", "x"),
    [(torch.float, X), (torch.double, X.float()), (torch.float, (9 * X).long())],
    ids=["float64 data", "float32 data", "integers"],
)
def test_data_of_another_type_are_refused_in_one_line(
    call: Callable[..., Any], kind: torch.dtype, x: Tensor
) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"the data are \w+, and the pair computes") as caught:
        call(*functions(kind), x)
    assert "\n" not in str(caught.value)


def test_another_error_of_a_pair_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        elbo(*functions(torch.float), X[:, :3].float())


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "float32": lambda x: x.float(),
    "array": lambda x: x.numpy(),
    "array of the other byte order": lambda x: x.numpy().astype(">f8"),
    "list": lambda x: x.tolist(),
    "arguments": lambda x: (x.numpy(),),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", [torch.float, torch.double], ids=str)
def test_evaluation_takes_rows_as_fit_does(
    form: Callable[[Tensor], Any], kind: torch.dtype
) -> None:
    torch.manual_seed(0)
    vae = VAE(StandardNormal(2), Normal(2, (4,)), MeanFieldNormal((4,), 2)).to(kind)

    def value(x: Any) -> tuple[float, ...]:
        torch.manual_seed(1)
        found = elbo(vae.model, vae.guide, x, num_samples=2).value
        drawn = to_arviz(vae.model, vae.guide, x, draws=2, seed=0).posterior["z"].to_numpy()
        return found, float(drawn.sum())

    # rows that went through float32 are off by 2^-25 in each of 80 values, and slopes are below 10
    assert value(form(X)) == pytest.approx(value(X.to(kind)), rel=0, abs=80 * 10 * 2**-25)


@pytest.mark.parametrize("objective", [InfoVAE, WAE], ids=lambda o: o.__name__)
def test_a_critic_takes_the_type_of_the_pair(objective: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    vae = VAE(StandardNormal(2), Normal(2, (4,)), MeanFieldNormal((4,), 2)).double()
    loss = objective(Adversarial(dim=2))
    with pytest.raises(ValueError, match=r"critic is of torch.float32, .*'z' are torch.float64"):
        loss.loss_and_grads(vae.model, vae.guide, X)
    fit(vae.model, vae.guide, X, loss, epochs=1, progress=False)
    assert {p.dtype for p in loss.parameters()} == {torch.double}


def test_codes_and_factors_in_the_other_byte_order() -> None:
    factors = np.random.default_rng(0).integers(0, 3, (100, 2))
    codes = factors + 0.01 * np.random.default_rng(1).normal(size=(100, 2))
    assert mig(codes.astype(">f8"), factors.astype(">i4")) == mig(codes, factors)
