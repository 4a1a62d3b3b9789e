"""Annealed importance sampling, a check of the likelihood that trusts the guide less."""

from dataclasses import replace
from typing import Literal, get_args

import torch
from pyro.ops.integrator import velocity_verlet
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, importance_nll
from ppl_vae.evaluation.likelihood import STEPS, per_datum
from ppl_vae.evaluation.metric import NATS, Metric, Subject
from ppl_vae.evaluation.pair import Pair, Terms, with_values
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.proposal import Proposal, Space
from ppl_vae.evaluation.terms import require_density
from ppl_vae.evaluation.weights import Weights
from ppl_vae.program.density import is_real

__all__ = ["METRICS", "annealed_nll"]

Start = Literal["fitted", "guide", "prior"]
Values = dict[str, Tensor]


def annealed_nll(
    model: Program,
    guide: Program,
    x: Data,
    chains: int = 16,
    temperatures: int = 100,
    leapfrog: int = 5,
    start: Start = "fitted",
    step_size: float = 0.2,
    steps: int = STEPS,
    plate: str | None = None,
) -> Estimate:
    r"""The negative log-likelihood by annealed importance sampling, in nats per datum.

    Each chain starts at a draw of $\pi_0$ (a proposal fitted to the row as in `nll`, the guide or
    the prior) and goes through the densities
    $\pi_0^{1 - \beta_t} p(x, z)^{\beta_t}$, $\beta_t = t / T$, with one Hamiltonian Monte Carlo
    step at each; its weight is $\log w = \sum_t (\beta_t - \beta_{t-1}) [\log p(x, z_{t-1}) -
    \log \pi_0(z_{t-1})]$. $E w = p(x)$ whatever the mixing, so the value is an upper bound of the
    NLL in expectation, as in `nll`, and tight much sooner where the guide fits badly.

    The steps use Pyro's leapfrog integrator for all data and chains at once and are accepted row
    by row (Pyro's HMC kernel would accept or refuse all of them together). Step sizes are set per
    datum and temperature in a first run, towards acceptance .65, and held in the second, which
    keeps the weights unbiased. The cost is 2 T (leapfrog + 2) runs of the model with gradients on
    n times `chains` rows at once: meant for a handful of data.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        chains: per datum; their weights are averaged inside the logarithm.
        temperatures: T.
        leapfrog: steps of the integrator per transition.
        start: where chains begin. The guide needs a density; the others ask nothing of it.
        step_size: where the search for step sizes begins.
        steps: of Adam, for the fit of a proposal, as in `nll`.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for latents that are not real-valued, or a start at a guide without density.

    References:
        Neal (2001), Annealed importance sampling, Statistics and Computing 11.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based
        generative models, arXiv:1611.04273.
    """
    check_positive(chains=chains, temperatures=temperatures, leapfrog=leapfrog, steps=steps)
    if start not in get_args(Start):
        raise ValueError(f"start is {start!r}: use one of {', '.join(get_args(Start))}")
    if chains < 2:
        raise ValueError("chains is 1: 2 or more are needed for an error")
    pair = Pair(model, guide, x, plate)
    pair.require_observed()
    pair.require_rows()
    own = pair.guide_sites == pair.latents and not pair.guide_observed
    if start == "guide" and (pair.deterministic or not own):
        raise ValueError(
            "annealing from the guide needs the density of its latents, and this guide has "
            "auxiliary or deterministic sites: use start='fitted'"
        )
    # A pair that runs whole has each row once a run.
    together = chains if pair.sliced else 1
    weights, acceptance = [], []
    with evaluating(model, guide):
        sampler = _Annealing(pair, together, temperatures, leapfrog, start, steps)
        for _ in range(chains // together):
            sizes, _, _ = sampler.run(torch.tensor(step_size), adapt=True)
            _, log_w, accepted = sampler.run(sizes, adapt=False)
            weights.append(log_w)
            acceptance.append(accepted / (chains // together))
    log_w, accepted = torch.cat(weights, 1), sum(acceptance)
    source = "a fitted proposal" if start == "fitted" else f"the {start}"
    note = f"{chains} chains of {temperatures} steps from {source}"
    moved = f"acceptance {accepted:.2f}"
    found = importance_nll(Weights([log_w], chains), note)
    return replace(found, note=", ".join(filter(None, [found.note, moved, pair.note])))


class _Annealing:
    def __init__(
        self,
        pair: Pair,
        chains: int,
        temperatures: int,
        leapfrog: int,
        start: Start,
        steps: int,
    ) -> None:
        self.pair, self.chains, self.leapfrog = pair, chains, leapfrog
        self.temperatures, self.source = temperatures, start
        self.rows = pair.index.repeat_interleave(chains)
        self.proposal = pair.run(self.rows)
        for name in pair.latents:
            prior = pair.blocks.reading.model_sites[name]
            if not all(is_real(site.fn) for site in (self.proposal.guide[name], prior)):
                raise ValueError(
                    f"latent {name!r} is not real-valued: annealing moves real vectors"
                )
        if start == "fitted":
            every = pair.index if pair.sliced else None
            self.fitted = Proposal.fit(pair, every, "full_covariance", steps).law
            self.space = Space(pair, self.rows if pair.sliced else None)

    def run(self, step_sizes: Tensor, adapt: bool) -> tuple[Tensor, Tensor, float]:
        """Step sizes `(T, n)`, log-weights `(n, chains)` and the mean acceptance."""
        n = len(self.pair)
        values = self.start()
        step_sizes = step_sizes.to(next(iter(values.values())))
        log_w: Tensor | float = 0.0
        used, accepted = [], 0.0
        step = step_sizes.expand(n) if adapt else step_sizes[0]
        for t in range(self.temperatures):
            base, joint = self.scores(values)
            log_w = log_w + (joint - base).double() / self.temperatures
            step = step if adapt else step_sizes[t]
            used.append(step)
            values, probability = self.move(values, (t + 1) / self.temperatures, step)
            mean = probability.view(n, self.chains).mean(1)
            accepted += float(mean.mean()) / self.temperatures
            if adapt:
                step = step.to(mean) * torch.exp(0.3 * (mean - 0.65))
        assert isinstance(log_w, Tensor)
        return torch.stack(used), log_w.view(n, self.chains), accepted

    def start(self) -> Values:
        if self.source == "fitted":
            u = self.fitted.sample(torch.Size([self.chains])).transpose(0, 1).flatten(0, 1)
            return self.space.at(u)[0]
        guide = self.source == "guide"
        sites = self.pair.run(self.rows).guide if guide else self.pair.run_prior(self.rows)
        return {name: sites[name].value.detach().clone() for name in self.pair.latents}

    def scores(self, values: Values) -> tuple[Tensor, Tensor]:
        """log pi_0(z) and log p(x, z) by row."""
        if self.source == "fitted":
            u = self.space.of(values)
            # the chains of a row stand together
            by_chain = u.view(-1, self.chains, u.shape[1]).transpose(0, 1)
            base = self.fitted.log_prob(by_chain).transpose(0, 1).flatten()
            return base, self.space.log_density(u)
        if self.source == "guide" and not self.pair.independent:
            terms = self.pair.run(self.rows, values)
        else:
            guide = with_values(self.proposal.guide, values)
            terms = Terms(self.pair, self.proposal.rows, guide)
        # The likelihood first: its run of the model gives the prior too.
        likelihood, prior = terms.log_likelihood, terms.log_prior
        return terms.log_q if self.source == "guide" else prior, prior + likelihood

    def move(self, values: Values, beta: float, step: Tensor) -> tuple[Values, Tensor]:
        """One Hamiltonian step at inverse temperature beta, and its acceptance by row."""
        last: list[Tensor] = []

        def energy_of(z: Values) -> Tensor:
            base, joint = self.scores(z)
            return -(1 - beta) * base - beta * joint

        momenta = {name: torch.randn_like(v) for name, v in values.items()}
        sizes = step.repeat_interleave(self.chains)
        # One step size per row, laid along the row axis of each site; the integrator takes a
        # single one, so space is rescaled by it instead: q = z / step.
        by_site = {name: self.along(name, sizes) for name in values}

        def potential(q: Values) -> Tensor:
            end = energy_of({name: v * by_site[name] for name, v in q.items()})
            last.append(end.detach())
            return end.sum()

        energy = energy_of(values)
        scaled = {name: v / by_site[name] for name, v in values.items()}
        with torch.enable_grad():
            q, r, _, _ = velocity_verlet(
                scaled, momenta, potential, lambda r: r, 1.0, self.leapfrog
            )
        change = last[-1] + self.kinetic(r) - energy - self.kinetic(momenta)
        probability = torch.exp(-change).nan_to_num(0.0).clamp(max=1)
        keep = torch.rand_like(probability) < probability
        moved = {
            name: torch.where(
                self.along(name, keep), q[name].detach() * by_site[name], values[name]
            )
            for name in values
        }
        return moved, probability

    def kinetic(self, momenta: Values) -> Tensor:
        squares = [
            self.pair.flatten(self.proposal.guide[name], r).square().sum(1) / 2
            for name, r in momenta.items()
        ]
        return torch.stack(squares).sum(0)

    def along(self, name: str, by_row: Tensor) -> Tensor:
        """Numbers by row, shaped to broadcast against the site's value."""
        site = self.proposal.guide[name]
        trailing = site.event_dim - self.pair.dim_of(site) - 1
        return by_row.reshape(-1, *(1,) * trailing)


def _annealed(subject: Subject) -> Estimate:
    require_density(subject)
    few = tuple(part[:100] for part in subject.few)
    return per_datum(annealed_nll(*subject.pair, few), len(few[0]))


METRICS = (
    Metric(
        "annealed_log_likelihood",
        "Log-likelihood, annealing",
        NATS,
        "log p(x)",
        "fit",
        _annealed,
        when="asked",
    ),
)
