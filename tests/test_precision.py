"""Networks in bfloat16, with densities and divergences in float32."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae import MMD, VAE, InfoVAE, MeanFieldNormal, Normal, StandardNormal, fit
from ppl_vae.program.precision import Halved
from ppl_vae.program.running import read

SIZE = torch.Size([4])


def pair() -> VAE:
    return VAE(StandardNormal(2), Normal(2, SIZE), MeanFieldNormal(SIZE, 2))


def test_matrix_products_are_rounded_and_densities_are_not() -> None:
    vae, x = pair(), torch.randn(16, 4)
    halved = Halved(torch.device("cpu"))
    layers: list[tuple[nn.Linear, Tensor, Tensor]] = []
    for layer in vae.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda m, given, out: layers.append((m, given[0], out)))
    reading = read(Halved(torch.device("cpu"))(vae.model), halved(vae.guide), (x,))
    assert layers
    for layer, given, out in layers:
        rounded = [t.bfloat16() for t in (given, layer.weight, layer.bias)]
        expected = nn.functional.linear(*rounded).float()
        torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)
        assert not torch.equal(out.float(), nn.functional.linear(given, layer.weight, layer.bias))
        assert torch.equal(out.float(), out.float().bfloat16().float()), "it has bfloat16's bits"
    for site in [*reading.guide_sites.values(), *reading.model_sites.values()]:
        tensors = [site.value, site.log_density(), site.fn.base_dist.loc, site.fn.base_dist.scale]
        assert {t.dtype for t in tensors} == {torch.float32}


def test_a_training_is_recorded_and_near_that_in_full_precision() -> None:
    x = torch.randn(256, 4) * torch.tensor([2.0, 1.0, 0.5, 0.5])
    rows = []
    for precision in ("full", "bf16"):
        pyro.clear_param_store()
        vae = pair()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            history = fit(
                vae.model,
                vae.guide,
                x,
                InfoVAE(MMD(), alpha=0.5, scale=10.0),
                epochs=12,
                batch_size=64,
                progress=False,
                precision=precision,  # type: ignore[arg-type]
            )
        rows.append(history.last)
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert rows[0]["loss"] != rows[1]["loss"]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=0.02)


def test_what_cannot_be_halved_is_refused() -> None:
    x = torch.randn(8, 4)
    vae = pair()
    for wrong, said in (("half", "give 'full' or 'bf16'"), ("bf16", "is float64: call .float")):
        with pytest.raises(ValueError, match=said):
            fit(vae.model, vae.double().guide, x, InfoVAE(alpha=0), precision=wrong)  # type: ignore[arg-type]

    weight = nn.Parameter(torch.randn(2, 4))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = x @ pyro.param("weight", weight).T
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))

    with pytest.raises(
        ValueError, match="site 'z' is drawn in bfloat16, by a function that is no"
    ):
        fit(model, guide, x, InfoVAE(alpha=0), precision="bf16", progress=False)
