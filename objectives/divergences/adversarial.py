"""A learned critic between the aggregate posterior and the prior."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ppl_vae.objectives.divergences.aggregate_posterior import AggregatePosterior, Prior
from ppl_vae.objectives.divergences.divergence import Divergence, Reads
from ppl_vae.objectives.divergences.f_divergence import (
    KL,
    Bound,
    ChiSquared,
    Critic,
    Hellinger,
    JensenShannon,
    ReverseKL,
)
from ppl_vae.objectives.divergences.weighting import normalised
from ppl_vae.objectives.divergences.wgan import WassersteinGP
from ppl_vae.objectives.factories import Unbuilt

__all__ = ["Adversarial"]

Factory = Callable[[torch.Size, torch.Size], nn.Module]

BoundName = Literal["JS", "KL", "reverse KL", "chi-squared", "Hellinger", "WGAN-GP"]

_BOUNDS: dict[BoundName, Callable[[], Bound]] = {
    "JS": JensenShannon,
    "KL": KL,
    "reverse KL": ReverseKL,
    "chi-squared": ChiSquared,
    "Hellinger": Hellinger,
    "WGAN-GP": WassersteinGP,
}


class Adversarial(Divergence):
    r"""A divergence of q(z) and the prior, bounded from below by a critic trained with it.

    $$D = \sup_{\ell}\; \mathrm{E}_{p}\, a(\ell(y)) - \mathrm{E}_{q_w}\, b(\ell(z))$$

    for the pair a, b of `bound`:

    | bound         | value at the best critic                                     |
    |---------------|--------------------------------------------------------------|
    | `JS`          | Jensen-Shannon, in [0, log 2]; the usual adversarial game    |
    | `KL`          | KL(p ‖ q), prior first                                       |
    | `reverse KL`  | KL(q ‖ p)                                                    |
    | `chi-squared` | ∫ (p - q)² / q                                               |
    | `Hellinger`   | ∫ (√p - √q)²                                                 |
    | `WGAN-GP`     | the 1-Wasserstein distance, and a little more                |

    The critic climbs the bound on detached codes and draws; the encoder descends it with the
    critic's parameters held, so that neither's loss moves the other. The critic's learning is not
    weighed by lambda. More of its steps for each of the encoder's are for the training loop
    (`fit(critic_steps=...)`), and its learning rate for the optimiser. The `Adam` of `fit` has a
    shorter memory for it than for the encoder (`critic_beta1`).

    The value reported is the bound on this batch. It is a lower bound in expectation where the
    critic has not seen the batch, negative for a bad critic, and not clamped. For `JS` the
    gradient is by default that of the *non-saturating* loss, a and b exchanged,
    $\mathrm{E}_p\, b(\ell) - \mathrm{E}_q\, a(\ell)$, here
    $-\tfrac12 \mathrm{E}_q \log \sigma(\ell) - \tfrac12 \mathrm{E}_p \log(1 - \sigma(\ell))$:
    the bound's own gradient vanishes where the critic is sure, and the two agree where it is not.
    Published adversarial auto-encoders weigh the game's value, $2 D_{JS} - \log 4$: their lambda
    is half of `scale` here.

    A critic with batch-norm is shown the rows that count and no other, for which it waits for the
    device at each call.

    A learnable prior is trained as well, towards q(z), through its draws where they are
    reparameterised (through the change to noise coordinates where it is Normal, Laplace or
    Uniform); a prior whose draws carry no gradient is left alone.

    Args:
        net: the critic, a module that maps codes `(n, d)` to logits `(n, 1)` or `(n,)`; or a
            factory of it, called with the sizes `(d,)` and `(1,)` (such as a body); by default a
            ReLU network of `hidden` layers.
        bound: what the critic bounds, by name, or a `Bound`, such as `WassersteinGP(weight=1.0)`.
        dim: the dimension d of the joint code, to make a network for at once; an `Experiment`
            tells it where it is left out.
        hidden: widths of the default network's layers; by default two of $32 d$ units, no fewer
            than 64 and no more than 512, which come as near to a known divergence in as many
            steps as the published MNIST critic, `(512, 512, 512, 512)`, for a fraction of the time
            (`benchmarks/critics.py`).
        non_saturating: whether the encoder descends the non-saturating loss; for `JS` alone by
            default.
        log_prior: adds log p(z) to the logit, so that the network has only -log q(z) to learn;
            needs a prior with a density that is positive at every code. It is part of the
            critic: the prior's parameters get no gradient by it.
        draws: prior draws m; as many as rows by default.

    Shape:
        codes `(n, d)`; the result is a scalar, in nats for `JS`, `KL` and `reverse KL`.

    Raises:
        ValueError: for an unknown bound; for `log_prior` with a critic that is no density ratio;
            in use without a network or a dimension, or with codes of another dimension or type
            of numbers; for a network that gives anything but a logit a row.

    References:
        Goodfellow et al. (2014), Generative adversarial nets, arXiv:1406.2661.
        Makhzani, Shlens, Jaitly, Goodfellow and Frey (2015), Adversarial autoencoders,
        arXiv:1511.05644.
        Nowozin, Cseke and Tomioka (2016), f-GAN, arXiv:1606.00709.
        Gulrajani et al. (2017), Improved training of Wasserstein GANs, arXiv:1704.00028.
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558 (the logit with log p(z) added).

    Example:
        >>> from ppl_vae.objectives import InfoVAE
        >>> from ppl_vae.objectives.divergences.adversarial import Adversarial
        >>> objective = InfoVAE(Adversarial(dim=2, hidden=(64, 64)), scale=10.0)
        >>> sum(p.numel() for p in objective.parameters())
        4417
    """

    def __init__(
        self,
        net: nn.Module | Factory | None = None,
        bound: BoundName | Bound = "JS",
        *,
        dim: int | None = None,
        hidden: Sequence[int] | None = None,
        non_saturating: bool | None = None,
        log_prior: bool = False,
        draws: int | None = None,
    ):
        super().__init__()
        if isinstance(bound, str):
            if bound not in _BOUNDS:
                raise ValueError(
                    f"Adversarial bound={bound!r}: use one of {', '.join(get_args(BoundName))}"
                )
            bound = _BOUNDS[bound]()
        if log_prior and not bound.is_ratio:
            raise ValueError(
                f"log_prior=True adds log p(z) to a logit of p(z) / q(z), which the critic of "
                f"{type(bound).__name__} is not: use an f-divergence, such as bound='JS'"
            )
        if draws is not None and draws < 1:
            raise ValueError(f"Adversarial draws={draws}: one prior draw or more")
        made = isinstance(net, nn.Module)
        self.dim = dim
        self._factory = None if made else partial(_critic, hidden) if net is None else net
        self.net = (
            net if isinstance(net, nn.Module) else Unbuilt("the critic", "a module, or dim=")
        )
        if dim is not None:
            self.build(dim)
        self.bound = bound
        self.non_saturating = bound.non_saturating if non_saturating is None else non_saturating
        self.log_prior = log_prior
        self.draws = draws

    @property
    def reads(self) -> Reads:
        return "density" if self.log_prior else "draws"

    def of_unit_shift(self, dim: int) -> float:
        return self.bound.of_unit_shift()

    def build(self, dim: int) -> None:
        if self._factory is not None:
            self.dim = dim
            self.net = self._factory(torch.Size([dim]), torch.Size([1]))

    def forward(self, q: AggregatePosterior) -> Tensor:
        if self.dim is not None and self.dim != q.dim:
            raise ValueError(
                f"Adversarial's critic reads codes of {self.dim} dimensions, and those of "
                f"{q.name!r} have {q.dim}: make dim {q.dim}"
            )
        kinds = {p.dtype for p in self.net.parameters() if p.is_floating_point()}
        if kinds and q.codes.dtype not in kinds:
            raise ValueError(
                f"Adversarial's critic is of {', '.join(map(str, kinds))}, and the codes of "
                f"{q.name!r} are {q.codes.dtype}: call .to({q.codes.dtype}) on the objective"
            )
        draws, shared = q.weighted_prior_draws(self.draws)
        held = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        on_codes, on_draws = self._logits(q, draws, shared, self._still(held))
        value = self._bound(q.weights, shared, on_codes, on_draws)
        if self.non_saturating:
            exchanged = _mean(q.weights, self.bound.on_prior(on_codes))
            surrogate = _mean(shared, self.bound.on_codes(on_draws)) - exchanged
            value = value.detach() + (surrogate - surrogate.detach())
        return torch.where(q.weights.sum() > 0, value, 0)

    def critic_loss(self, q: AggregatePosterior) -> Tensor | None:
        parameters: dict[str, Tensor] = dict(self.net.named_parameters())
        if not any(parameter.requires_grad for parameter in parameters.values()):
            return None
        # Weights may be the guide's too, where it enumerates a site.
        q = replace(q, codes=q.codes.detach(), weights=q.weights.detach())
        draws, shared = q.weighted_prior_draws(self.draws)
        draws = draws.detach()
        still = self._still(parameters)
        logits = self._logits(q, draws, shared, self._call if q.moving else still)
        penalty = self.bound.penalty(still, draws, q.codes, q.weights)
        loss = penalty - self._bound(q.weights, shared, *logits)
        return torch.where(q.weights.sum() > 0, loss, 0)

    def _bound(
        self, weights: Tensor, shared: Tensor, on_codes: Tensor, on_draws: Tensor
    ) -> Tensor:
        of_prior = _mean(shared, self.bound.on_prior(on_draws))
        return of_prior - _mean(weights, self.bound.on_codes(on_codes))

    def _logits(
        self, q: AggregatePosterior, draws: Tensor, shared: Tensor, critic: Critic
    ) -> tuple[Tensor, Tensor]:
        # One batch of both: a batch-norm would hide a difference in mean and scale otherwise.
        points = torch.cat([q.codes, draws])
        if self._mixes_rows:
            # It looks at rows and not at weights, so none may be there that does not count.
            counts = torch.cat([q.weights, shared]).detach() > 0
            counts = counts | ~counts.any()
            whole = torch.zeros(len(points), dtype=points.dtype, device=points.device)
            logits = whole.masked_scatter(counts, critic(points[counts]))
        else:
            logits = critic(points)
        on_codes, on_draws = logits.split([len(q), len(draws)])
        if self.log_prior:
            on_codes = on_codes + _log_prior(q.prior, q.codes)
            on_draws = on_draws + _log_prior(q.prior, draws)
        return on_codes, on_draws

    @property
    def _mixes_rows(self) -> bool:
        layers = (m for m in self.net.modules() if isinstance(m, _BatchNorm))
        return any(m.training or not m.track_running_stats for m in layers)

    def _still(self, parameters: dict[str, Tensor]) -> Critic:
        """The critic at given parameters, whose running statistics do not move."""

        def critic(points: Tensor) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
            return _logit(functional_call(self.net, parameters | buffers, (points,)), points)

        return critic

    def _call(self, points: Tensor) -> Tensor:
        return _logit(self.net(points), points)


def _critic(hidden: Sequence[int] | None, inputs: torch.Size, outputs: torch.Size) -> nn.Module:
    layers: list[nn.Module] = []
    if hidden is None:
        hidden = (min(512, max(64, 32 * inputs.numel())),) * 2
    for a, b in pairwise((*inputs, *hidden)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((*inputs, *hidden)[-1], *outputs))


def _logit(output: Tensor, points: Tensor) -> Tensor:
    if output.shape not in ((len(points),), (len(points), 1)):
        raise ValueError(
            f"the critic maps codes of shape {tuple(points.shape)} to {tuple(output.shape)}: it "
            f"must give one logit a row, ({len(points)}, 1)"
        )
    return output.reshape(len(points))


def _log_prior(prior: Prior, points: Tensor) -> Tensor:
    """log p at the points, whose gradient reaches the points but not the prior's parameters."""
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        density = prior.log_prob(leaf)
        if not density.requires_grad:  # constant, as a Uniform's is
            return density
        (score,) = torch.autograd.grad(density.sum(), leaf, allow_unused=True)
    if score is None:
        return density.detach()
    return density.detach() + (score * (points - points.detach())).sum(-1)


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    return (normalised(weights) * values).sum()
