"""A pair whose labels are partly observed."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae import distributions
from ppl_vae.data.dataset import Extra
from ppl_vae.guides import Encoder, OneHotCategorical, RelaxedCategorical
from ppl_vae.likelihoods import Likelihood
from ppl_vae.pairs.conditional import appended, covariates_of, joined
from ppl_vae.pairs.pair import Pair, check_parts, part_name
from ppl_vae.priors import Prior
from ppl_vae.program.registration import register

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(Pair):
    r"""A variational auto-encoder with a class y of each datum, known for some data.

    $$p(y)\, p(z)\, p(x \mid z, y), \qquad q(y \mid x)\, q(z \mid x, y)$$

    The class is latent where the label is missing, and the classifier says how:

    * `guides.OneHotCategorical`: enumerated. Every term of the loss is the exact expectation over
      the K classes, which costs K passes of encoder and decoder; codes enter a divergence as K
      weighted rows of each datum.
    * `guides.RelaxedCategorical`: one relaxed draw, at the cost of a bias from the temperature.

    The sites are `y_observed` and `y_unobserved`, the halves of y; `z`; and `x`; in the plate
    `data`. The class is missing data, not a code: a divergence compares z alone, and y keeps its
    KL.

    Labels teach the classifier nothing through the bound, where it is not used on labelled data.
    In training, and there alone, the model therefore observes them once more, at the site
    `label`, given x and with a weight:

    $$-w \sum_{i\ \text{labelled}} \log q(y_i \mid x_i).$$

    Args:
        prior: p(z), over d dimensions.
        likelihood: p(x | z, y), over d + K dimensions.
        encoder: q(z | x, y), of x with the class as K further entries of its first dimension (see
            `ConditionalVAE`).
        classifier: factory of q(y | x), called with the shape of x and K.
        weight: the w, for each labelled datum; 0 leaves the site out. The reference takes .1 N
            over the number of labelled data.
        classes: the probabilities p(y); equal by default.

    Raises:
        ValueError: if the parts disagree about the number of classes or the shape of z or x.

    References:
        Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative
        models, arXiv:1406.5298.

    Example:
        >>> import torch
        >>> from ppl_vae.guides import MeanFieldNormal
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> from ppl_vae.priors import StandardNormal
        >>> size, d, k = (1, 8, 8), 2, 10
        >>> vae = SemiSupervisedVAE(
        ...     StandardNormal(d),
        ...     Bernoulli(d + k, size),
        ...     MeanFieldNormal((1 + k, 8, 8), d),
        ... )
        >>> x, y = torch.rand(100, *size), torch.randint(-1, k, (100,))
        >>> loss = InfoVAE(MMD(), scale=10.0)(vae.model, vae.guide)(x, y)
    """

    extra: ClassVar[Extra] = "labels"
    probabilities: Tensor

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        encoder: Encoder,
        classifier: Callable[[torch.Size, int], Encoder] = OneHotCategorical,
        weight: float = 1.0,
        classes: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_parts(self, prior, likelihood, encoder)
        count = covariates_of(prior, likelihood, encoder)
        if not isinstance(prior, Prior):
            raise ValueError(
                f"{part_name(prior)} is conditioned, and here z does not depend on the class: use "
                "a prior such as StandardNormal"
            )
        if weight < 0:
            raise ValueError(f"weight={weight} must not be negative")
        p = torch.full((count,), 1 / count) if classes is None else torch.tensor([*classes])
        if len(p) != count or not bool((p > 0).all()):
            raise ValueError(f"classes={classes}: give {count} probabilities above 0")
        self.prior = prior
        self.likelihood = likelihood
        self.encoder = encoder
        self.classifier = classifier(likelihood.size, count)
        if not isinstance(self.classifier, OneHotCategorical | RelaxedCategorical):
            raise ValueError(
                f"{part_name(self.classifier)} is no classifier: use OneHotCategorical, whose "
                "classes are enumerated, or RelaxedCategorical"
            )
        self.weight = weight
        self.register_buffer("probabilities", p / p.sum(), persistent=False)

    def part(self, site: str, of_guide: bool = False) -> nn.Module:
        is_class = site in ("y_observed", "y_unobserved", "label")
        return self.classifier if is_class else super().part(site, of_guide)

    def model(self, x: Tensor, y: Tensor) -> Tensor:
        """Draws y and z and observes x, and y where it is known; returns x.

        Args:
            x: data, of shape (n, *size).
            y: labels, integers of shape (n,); negative where unknown.
        """
        register(self)
        label, known = self._labels(y)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=known):
                prior = dist.OneHotCategorical(self.probabilities)
                seen = pyro.sample("y_observed", prior, obs=label)
            with poutine.mask(mask=~known):
                drawn = pyro.sample("y_unobserved", self._class_prior())
            y = torch.where(known[:, None], seen, drawn)
            z = pyro.sample("z", self.prior())
            if self.weight and self.training:
                with poutine.mask(mask=known), poutine.scale(scale=self.weight):
                    logits = self.classifier(x).logits
                    pyro.sample("label", dist.OneHotCategorical(logits=logits), obs=label)
            return self.observe(self.likelihood(joined(z, y)), x)

    def guide(self, x: Tensor, y: Tensor) -> Tensor:
        """Draws y where it is unknown, and z, of shape (n, d); returns z."""
        register(self)
        label, known = self._labels(y)
        q, infer = self.classifier(x), {}
        if q.has_enumerate_support:
            # Where y is known its values all lead to the label: equal weights, which pass no
            # gradient, keep the noise of their codes from the classifier.
            q = dist.OneHotCategorical(logits=torch.where(known[:, None], 0.0, q.logits))
            infer = {"enumerate": "parallel"}
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=~known):
                drawn = pyro.sample("y_unobserved", q, infer=infer)
            y = torch.where(known[:, None], label, drawn)
            return pyro.sample("z", self.encoder(appended(x, y, self.likelihood.size)))

    def classify(self, x: Tensor) -> Tensor:
        """The class probabilities q(y | x), of shape (n, K)."""
        probabilities: Tensor = self.classifier(x).logits.softmax(-1)
        return probabilities

    def _labels(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot labels `(n, K)`, of any class where unknown; and whether known, `(n,)`."""
        classes = torch.arange(len(self.probabilities), device=y.device)
        return (y.clamp_min(0)[:, None] == classes).to(self.probabilities), y >= 0

    def _class_prior(self) -> dist.TorchDistribution:
        temperature = getattr(self.classifier, "temperature", None)
        if temperature is None:
            return dist.OneHotCategorical(self.probabilities)
        temperature = temperature * torch.ones_like(self.probabilities[0])
        return distributions.RelaxedOneHotCategorical(temperature, self.probabilities)
