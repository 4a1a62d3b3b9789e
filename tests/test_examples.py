"""Pyro's own examples under plain `pyro.infer.SVI`: what each objective makes of each.

`EXPECTED` was written from the rules (docs/semantics.md) before anything was run.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import EXAMPLES, Example, net, normal
from pyro import poutine
from pyro.contrib.cevae import TraceCausalEffect_ELBO
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from ppl_vae.objectives import (
    IWAE,
    MMD,
    TCVAE,
    WAE,
    Adversarial,
    BetaVAE,
    CapacityVAE,
    Divergence,
    InfoVAE,
    MutualAutoencoder,
    Objective,
    Stein,
)

DOCS = Path(__file__).parents[1] / "docs" / "examples.md"


class Auxiliary(nn.Module):
    """r(z | x): Gaussian, or Dirichlet where codes are on the simplex."""

    def __init__(self, example: Example):
        super().__init__()
        self.simplex = example.simplex
        self.net = net(example.size, example.width * (1 if self.simplex else 2))

    def forward(self, *x: Tensor) -> Any:
        out = self.net(torch.cat([part.reshape(len(part), -1) for part in x], -1).float())
        return dist.Dirichlet(out.exp()) if self.simplex else normal(out)


def asked(example: Example) -> dict[str, Any]:
    """`plate` and `sites`, as typed for an objective of one joint."""
    given: dict[str, Any] = {"plate": example.plate}
    if example.sites is not None and not example.apart:
        given["sites"] = list(example.sites)
    return given


def held(
    make: Callable[[], Divergence], example: Example, kind: type[InfoVAE] = InfoVAE, **more: Any
) -> InfoVAE:
    """An objective with a divergence, of the joint or of each site apart."""
    if example.apart:
        return kind(sites={s: (make(), 10.0) for s in example.compared}, **more)
    return kind(make(), scale=10.0, **asked(example), **more)


OBJECTIVES: dict[str, Callable[[Example], Objective]] = {
    "ELBO": lambda e: InfoVAE(alpha=0),
    "MMD": lambda e: held(MMD, e),
    "MMD_half": lambda e: held(MMD, e, alpha=0.5),
    "WAE": lambda e: held(MMD, e, WAE),
    "BetaVAE": lambda e: BetaVAE(4.0, **asked(e)),
    "TCVAE": lambda e: TCVAE(**asked(e)),
    "CapacityVAE": lambda e: CapacityVAE(1.0, **asked(e)),
    "IWAE": lambda e: IWAE(5, plate=e.plate),
    "MutualAutoencoder": lambda e: MutualAutoencoder(1.0, auxiliary=Auxiliary(e), **asked(e)),
    "Stein": lambda e: held(Stein, e),
    "Adversarial": lambda e: held(lambda: Adversarial(dim=e.dim, hidden=(8,)), e),
}
"""`InfoVAE` of a divergence by the divergence's name, `MMD_half` at alpha = 0.5."""

ENUMERATED = "is enumerated, which .* does not do: .* use InfoVAE, BetaVAE or WAE"
FACTORISES = r"needs a prior that factorises .* use InfoVAE\(AggregateKL\(\)\)"
DENSITY = r"needs the density of q\(z \| x\), Gaussian .* such as MMD\(\)"
MASKS = r"of one joint differ in mask: .* with sites=\[\.\.\.\]"
INSIDE = "has a mask inside to_event, .* use `with poutine.mask"
COST = "has a mask inside to_event, .* use InfoVAE"
SCORE = r"the prior of site .* is on .* such as MMD\(\)"
NO_MEAN = "has no mean in closed form, which a cost and a reconstruction error need: use InfoVAE"
CONSTANT = "the mean of 'y' depends on no latent site: use InfoVAE"
COUPLED = r"is outside plate .* use InfoVAE\(alpha=0\)"
UNOBSERVED = "the model observes nothing in plate .* use InfoVAE or BetaVAE"

REASONS = {
    ENUMERATED: "sums over no enumerated site: `InfoVAE`, `BetaVAE`, `CapacityVAE` and `WAE` do",
    FACTORISES: "the joint's prior does not factorise over dimensions: use `BetaVAE`, or `MMD`",
    DENSITY: "q(z\\|x) is not Gaussian by row: name one site that is with `sites=`, or use `MMD`",
    MASKS: "steps of unequal length make no joint: name those of one length with `sites=`",
    INSIDE: "a mask inside `to_event` names no rows: use `poutine.mask`, as in `dmm_masked`",
    COST: "no cost follows a mask inside `to_event` either: use `poutine.mask`",
    SCORE: "the prior is discrete, on a simplex or bounded, and lacks a score there: use `MMD`",
    NO_MEAN: "a `Categorical` has no mean for a cost: use `InfoVAE`",
    CONSTANT: "the marginal's mean is 0 whatever z is: use `InfoVAE`",
    COUPLED: "all data share one density: use `InfoVAE(alpha=0)`",
    UNOBSERVED: "no x belongs to a row: use `InfoVAE` or `BetaVAE`",
}
"""The words of each refusal, and what the docs say of it."""


def expected(**refused: str) -> dict[str, str]:
    """What each objective does: it runs, but for those named."""
    assert refused.keys() <= OBJECTIVES.keys()
    return {n: f"refuses: {refused[n]}" if n in refused else "runs" for n in OBJECTIVES}


EXPECTED: dict[str, dict[str, str]] = {
    "vae": expected(),
    "cvae": expected(),
    "ss_vae": expected(TCVAE=ENUMERATED, IWAE=ENUMERATED, MutualAutoencoder=ENUMERATED),
    "scanvi": expected(TCVAE=DENSITY),
    "prodlda": expected(),
    "cevae": expected(),
    "cevae_observed": expected(),
    "dmm": expected(TCVAE=DENSITY),
    "dmm_iaf": expected(TCVAE=DENSITY),
    "dmm_masked": expected(TCVAE=MASKS, MutualAutoencoder=MASKS),
    "dmm_masked_iaf": expected(TCVAE=MASKS, MutualAutoencoder=MASKS),
    "dmm_masked_inside": expected(
        MMD=INSIDE,
        MMD_half=INSIDE,
        WAE=COST,
        TCVAE=INSIDE,
        IWAE=INSIDE,
        MutualAutoencoder=INSIDE,
        Stein=INSIDE,
        Adversarial=INSIDE,
    ),
    "lda": expected(WAE=NO_MEAN, TCVAE=FACTORISES, Stein=SCORE),
    "sparse_gamma": expected(TCVAE=FACTORISES, Stein=SCORE),
    "eight_schools": expected(),
    "baseball": expected(TCVAE=FACTORISES, Stein=SCORE),
    "gmm": expected(TCVAE=ENUMERATED, IWAE=ENUMERATED, MutualAutoencoder=ENUMERATED, Stein=SCORE),
    "gplvm": expected(WAE=CONSTANT, IWAE=COUPLED, MutualAutoencoder=UNOBSERVED),
}
"""Example -> objective -> "runs" or "refuses: <words>"."""

STILL = {("gmm", objective): ["AutoDelta.weights"] for objective in ("MMD", "WAE", "Adversarial")}
"""Parameters that stay: the weights of the prior p(k) see D through its draws alone, which pass no
gradient where k is discrete, and sit where their own prior has none."""


def build(name: str) -> Example:
    """An example whose parameters are all in Pyro's store."""
    example = EXAMPLES[name]()
    with torch.no_grad():
        poutine.replay(example.model, poutine.trace(example.guide).get_trace(*example.args))(
            *example.args
        )
    return example


def guide_parameters(example: Example) -> dict[str, Tensor]:
    with torch.no_grad():
        trace = poutine.trace(example.guide).get_trace(*example.args)
    store = pyro.get_param_store()
    return {
        name: store[name].unconstrained().detach().clone()
        for name, node in trace.nodes.items()
        if node["type"] == "param"
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, objective: str) -> None:
    said = EXPECTED[name][objective]
    example = build(name)
    loss = OBJECTIVES[objective](example)
    svi = SVI(example.model, example.guide, pyro.optim.Adam({"lr": 0.01}), loss=loss)
    if said != "runs":
        with pytest.raises(ValueError, match=said.removeprefix("refuses: ")) as caught:
            svi.step(*example.args)
        assert "\n" not in str(caught.value)
        return
    before = guide_parameters(example)
    assert before
    losses = [svi.step(*example.args) for _ in range(2)]
    assert all(abs(value) < float("inf") for value in losses)
    after = guide_parameters(example)
    still = [n for n in before if torch.equal(before[n], after[n])]
    assert still == STILL.get((name, objective), [])


@pytest.mark.parametrize("name", [n for n in EXAMPLES if n not in ("gmm", "ss_vae")])
@pytest.mark.usefixtures("double")
def test_the_elbo_is_pyros(name: str) -> None:
    """The same seeds, so that most of the noise is shared."""
    example = build(name)
    pairs = []
    for seed in range(30):
        row = []
        for elbo in (InfoVAE(alpha=0), Trace_ELBO()):
            pyro.set_rng_seed(seed)
            row.append(elbo.loss(example.model, example.guide, *example.args))
        pairs.append(row)
    ours, theirs = torch.tensor(pairs).T
    difference = ours - theirs
    error = difference.std() / len(pairs) ** 0.5
    assert difference.mean().abs() <= 4.5 * error + 1e-9 * theirs.abs().mean()


@pytest.mark.parametrize("name", ["gmm", "ss_vae"])
@pytest.mark.usefixtures("double")
def test_the_elbo_is_pyros_where_the_guide_enumerates(name: str) -> None:
    example = build(name)
    ours, theirs = (
        torch.tensor([elbo.loss(example.model, example.guide, *example.args) for _ in range(30)])
        for elbo in (InfoVAE(alpha=0), TraceEnum_ELBO(max_plate_nesting=1))
    )
    error = ((ours.var() + theirs.var()) / len(ours)).sqrt()
    assert (ours.mean() - theirs.mean()).abs() <= 4.5 * error + 1e-9 * theirs.abs().mean()


@pytest.mark.usefixtures("double")
def test_the_auxiliary_fits_of_a_causal_effect_vae() -> None:
    """As factors they are Pyro's `TraceCausalEffect_ELBO`; observed they count as any ELBO has
    them, with the other sign."""
    losses = []
    for name, elbo in (("cevae", InfoVAE(alpha=0)), ("cevae_observed", TraceCausalEffect_ELBO())):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        example = build(name)
        args = (example.model, example.guide, *example.args)
        losses.append(torch.tensor([float(elbo.loss(*args)) for _ in range(200)]))
    error = (losses[0].var() / 200 + losses[1].var() / 200).sqrt()
    assert (losses[0].mean() - losses[1].mean()).abs() < 4.5 * error
    observed = InfoVAE(alpha=0)
    observed.loss(*args)
    fits = sum(float(observed.terms[f"guide/{name}"]) for name in "ty") * len(example.args[0])
    assert -2 * fits > 4.5 * error  # what the wrong sign would make of it


def test_what_to_type() -> None:
    """Unasked, the refusal names it."""
    for name in EXAMPLES:
        example = build(name)
        if example.plate is None and not example.apart:
            continue
        typed = f"plate='{example.plate}'" if example.plate else "sites={...}"
        with pytest.raises(ValueError, match=re.escape(typed)):
            InfoVAE(MMD(), scale=10.0).loss(example.model, example.guide, *example.args)


def typed(example: Example) -> str:
    if example.apart:
        return "`sites={" + f'"{example.compared[0]}": (MMD(), 10.0), ...' + "}`"
    if example.sites is not None:
        return f"`sites={list(example.sites)}`".replace("'", '"')
    return "" if example.plate is None else f'`plate="{example.plate}"`'


def table() -> str:
    """The docs' table: a line an example, and a note for each kind of refusal."""
    notes = {words: str(i + 1) for i, words in enumerate(REASONS)}
    lines = [
        "| example | data plate | compared | type | all objectives but |",
        "|---|---|---|---|---|",
    ]
    for name, row in EXPECTED.items():
        example = EXAMPLES[name]()
        but: dict[str, list[str]] = {}
        for objective, said in row.items():
            if said != "runs":
                but.setdefault(notes[said.removeprefix("refuses: ")], []).append(objective)
        cells = [
            f"`{name}`",
            example.rows,
            ", ".join(example.compared),
            typed(example),
            "; ".join(f"{', '.join(objectives)} ({note})" for note, objectives in but.items()),
        ]
        lines.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join([*lines, "", *(f"{notes[w]}. {said}" for w, said in REASONS.items())])


def test_docs() -> None:
    """`python tests/test_examples.py` prints what belongs there."""
    assert table() in DOCS.read_text()


if __name__ == "__main__":
    print(table())
