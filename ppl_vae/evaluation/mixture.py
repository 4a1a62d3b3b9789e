"""The aggregate posterior of all data as a mixture whose density can be evaluated."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.program.density import density
from ppl_vae.program.sites import Site

__all__ = ["Mixture", "univariate"]


class Mixture:
    r"""The conditionals $q(z | x_j)$ of all rows of a pair, and one draw $z_j$ from each.

    Guides whose latents are free of each other are run once per row and their distributions kept;
    others (chains) are run again for every pair of a code and a datum.

    Raises:
        ValueError: for a guide without a density over its latents.
    """

    def __init__(self, pair: Pair, block: int | None) -> None:
        if pair.deterministic or pair.guide_sites != pair.latents:
            raise ValueError(
                "the density of the aggregate posterior needs the guide's own: this guide has "
                "deterministic or auxiliary sites"
            )
        pair.require_rows()
        if not (pair.sliced or pair.independent):
            raise ValueError(
                "the density of the aggregate posterior needs each code under each datum, and "
                "this guide, whose latents depend on each other, cannot be run on some rows"
            )
        self.pair = pair
        block = block or len(pair)
        size = block if pair.independent else max(1, math.isqrt(block))
        self.terms: list[Terms] = list(pair.runs(block=size))
        self.gaussian = self._gaussian()
        if not pair.sliced and self.gaussian is None:
            size = len(pair)  # one run of the guide, of all rows
        starts = range(0, len(pair), size)
        self.slices = [slice(i, min(i + size, len(pair))) for i in starts]

    def __len__(self) -> int:
        return len(self.pair)

    def log_density(self, i: int, j: int) -> Tensor:
        """log q(z | x) for the codes of block i under the data of block j, `(b_i, b_j)`."""
        if self.gaussian is not None:
            features, weights, constant = self.gaussian
            columns = self.slices[j]
            return torch.addmm(constant[columns], features[self.slices[i]], weights[columns].T)
        if not self.pair.independent:
            return self._rerun(i, j)
        total = torch.zeros((), dtype=torch.float64)
        for name in self.pair.latents:
            a, b = self.terms[i].guide[name], self.terms[j].guide[name]
            axis = self.pair.dim_of(a) - a.event_dim
            value = a.value.movedim(axis, 0).unsqueeze(axis)
            values = density(b.fn, value).movedim(self.pair.dim_of(b), 1)
            total = total + values.reshape(*values.shape[:2], -1).sum(-1)
        return total

    def marginal_log_density(self, i: int, j: int) -> Tensor | None:
        """The same for each column of the codes, `(b_i, b_j, d)`; None where it is not known."""
        found = []
        if not self.pair.independent:
            return None
        whole = len(self.terms) < len(self.slices)  # one run of a Gaussian guide
        a, b = (self.terms[0 if whole else k] for k in (i, j))
        for name in self.pair.latents:
            fn, value = univariate(self.pair, b.guide[name]), self.pair.flatten(a.guide[name])
            if fn is None:
                return None
            if whole:
                columns, value = self.slices[j], value[self.slices[i]]
                fn = Normal(fn.mean[columns], fn.stddev[columns], validate_args=False)
            found.append(density(fn, value[:, None]))
        return torch.cat(found, -1)

    def _gaussian(self) -> tuple[Tensor, Tensor, Tensor] | None:
        r"""Features of codes `(n, f)`, weights `(n, f)` and constants `(n,)` of Gaussian guides.

        log q(z_i | x_j) is their product plus the constant: $-\tfrac12 z^T P z + z^T P \mu$ and
        the rest. One matrix product replaces n^2 d elementwise work, and in float64 the expanded
        square loses nothing that matters.
        """
        if not self.pair.independent:
            return None
        means, covariances = [], []
        for terms in self.terms:
            moments = [self._moments(terms.guide[name]) for name in self.pair.latents]
            known = [m for m in moments if m is not None]
            if len(known) < len(moments):
                return None
            means.append(torch.cat([mean for mean, _ in known], -1))
            parts = [c for _, c in known]
            if any(c.dim() == 3 for c in parts):
                full = [c if c.dim() == 3 else c.diag_embed() for c in parts]
                covariances.append(_block_diagonal(full))
            else:
                covariances.append(torch.cat(parts, -1))
        mean, covariance = torch.cat(means).double(), torch.cat(covariances).double()
        codes = torch.cat([self.pair.joint(t.guide, self.pair.latents) for t in self.terms])
        codes = codes.double()
        centre = mean.mean(0)
        mean, codes = mean - centre, codes - centre
        if covariance.dim() == 3:
            squares = (codes[:, :, None] * codes[:, None]).flatten(1)
            precision = torch.linalg.inv(covariance)
            pulled = (precision @ mean[..., None])[..., 0]
            log_det = torch.linalg.slogdet(covariance).logabsdet
        else:
            squares = codes.square()
            precision = covariance.reciprocal()
            pulled = precision * mean
            log_det = covariance.log().sum(1)
        constant = -0.5 * (
            (pulled * mean).sum(1) + log_det + mean.shape[1] * math.log(2 * math.pi)
        )
        features = torch.cat([squares, codes], 1)
        return features, torch.cat([-0.5 * precision.flatten(1), pulled], 1), constant

    def _moments(self, site: Site) -> tuple[Tensor, Tensor] | None:
        """Means `(b, d)` with variances `(b, d)` or covariances `(b, d, d)`, if Gaussian."""
        fn, covariance = site.fn, getattr(site.fn, "covariance_matrix", None)
        if isinstance(covariance, Tensor):
            if len(fn.batch_shape) > 1:
                return None
            return fn.mean, covariance.expand(*fn.batch_shape, *covariance.shape[-2:])
        factors = univariate(self.pair, site)
        return (factors.loc, factors.scale.square()) if isinstance(factors, Normal) else None

    def _rerun(self, i: int, j: int) -> Tensor:
        n, m = (s.stop - s.start for s in (self.slices[i], self.slices[j]))
        values = {}
        for name in self.pair.latents:
            site = self.terms[i].guide[name]
            axis = self.pair.dim_of(site) - site.event_dim
            values[name] = site.value.repeat_interleave(m, axis)
        run = self.pair.run(self.pair.index[self.slices[j]].repeat(n), values)
        total = torch.zeros((), dtype=torch.float64)
        for name in self.pair.latents:
            total = total + self.pair.log_prob(run.guide[name])
        return total.view(n, m)


def univariate(pair: Pair, site: Site, marginal: bool = True) -> Distribution | None:
    """The site's factors as one distribution of batch shape `(n, size)`; None if it has none.

    A multivariate normal gives its marginals, unless `marginal` is False.
    """
    fn = site.fn
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Normal):
        return Normal(
            pair.flatten(site, fn.mean), pair.flatten(site, fn.stddev), validate_args=False
        )
    if marginal and isinstance(getattr(fn, "covariance_matrix", None), Tensor):
        loc, scale = pair.flatten(site, fn.mean), pair.flatten(site, fn.stddev)
        return Normal(loc, scale, validate_args=False)
    plain = base.batch_shape == fn.batch_shape + fn.event_shape and len(base.batch_shape) == 2
    return base if plain and len(fn.batch_shape) == 1 else None


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    d = sum(b.shape[-1] for b in blocks)
    full = blocks[0].new_zeros(len(blocks[0]), d, d)
    start = 0
    for b in blocks:
        stop = start + b.shape[-1]
        full[:, start:stop, start:stop] = b
        start = stop
    return full
