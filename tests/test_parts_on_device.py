"""With validation off, no part makes the host wait for the device."""

import pyro
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import guides, likelihoods, priors
from ppl_vae.data.columns import Column

SIZE = (1, 8, 8)
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class _NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in func.name() for name in WAITS), func.name()
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _no_validation():
    torch.manual_seed(0)
    with pyro.validation_enabled(False):
        yield


def _run(make, density=True):
    make()  # constants are made and cached at the first call
    with _NoWaiting():
        p = make()
        value = p.rsample() if p.has_rsample else p.sample()
        result = p.log_prob(value) if density else value
        if result.requires_grad:
            result.sum().backward()


def test_the_test_can_fail():
    with pytest.raises(AssertionError), _NoWaiting():
        torch.ones(1).item()


# A ladder is no encoder, and a one-hot class is summed over, not drawn.
@pytest.mark.parametrize(
    "name", [n for n in guides.__all__ if n not in ("Encoder", "Ladder", "OneHotCategorical")]
)
def test_encoders(name):
    if name == "Flow":
        pytest.importorskip("zuko")
    encoder, x = getattr(guides, name)(SIZE, 3), torch.rand(5, *SIZE)
    _run(lambda: encoder(x), density=name != "Implicit")


@pytest.mark.parametrize(
    "name", [n for n in priors.__all__ if n not in ("Prior", "ConditionalNormal")]
)
def test_priors(name):
    if name == "FlowPrior":
        pytest.importorskip("zuko")
    first = guides.MeanFieldNormal(SIZE, 3) if name == "VampPrior" else 3
    prior = getattr(priors, name)(first)
    _run(lambda: prior().expand((5,)))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in likelihoods.__all__
        # base classes, and what an autoregressive likelihood says of a pixel
        if name not in ("Likelihood", "AutoregressiveLikelihood") and not name.endswith("Pixels")
    ],
)
def test_likelihoods(name):
    if name == "Columns":
        # of a class PyTorch draws one-hot vectors, for which it looks at numbers on the CPU alone
        kinds = Column("age"), Column("visits", "count"), Column("smoker", "binary")
        likelihood = likelihoods.Columns().build(3, kinds)
    else:
        likelihood = getattr(likelihoods, name)(3, SIZE)
    z = torch.randn(5, 3)
    _run(lambda: likelihood(z))
