"""The aggregate posterior of all data as a mixture whose density can be evaluated."""

import math

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.program.density import density
from ppl_vae.program.sites import Site

__all__ = ["MULTIVARIATE_NORMAL", "Mixture", "univariate"]

MULTIVARIATE_NORMAL = (MultivariateNormal, LowRankMultivariateNormal)
"""Not all that has a `covariance_matrix` is Gaussian: a multivariate Student t is not."""


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
            return self.gaussian.log_density(self.slices[i], self.slices[j])
        if not self.pair.independent:
            return self._rerun(i, j)
        total: Tensor | float = 0.0
        for name in self.pair.latents:
            a, b = self.terms[i].guide[name], self.terms[j].guide[name]
            axis = self.pair.dim_of(a) - a.event_dim
            value = a.value.movedim(axis, 0).unsqueeze(axis)
            values = density(b.fn, value).movedim(self.pair.dim_of(b), 1)
            total = total + values.double().reshape(*values.shape[:2], -1).sum(-1)
        assert isinstance(total, Tensor)
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

    def _gaussian(self) -> "_Gaussians | None":
        if not self.pair.independent:
            return None
        means, roots = [], []
        for terms in self.terms:
            moments = [self._moments(terms.guide[name]) for name in self.pair.latents]
            known = [m for m in moments if m is not None]
            if len(known) < len(moments):
                return None
            means.append(torch.cat([mean for mean, _ in known], -1))
            parts = [root for _, root in known]
            if any(root.dim() == 3 for root in parts):
                roots.append(
                    _block_diagonal([r if r.dim() == 3 else r.diag_embed() for r in parts])
                )
            else:
                roots.append(torch.cat(parts, -1))
        codes = torch.cat([self.pair.joint(t.guide, self.pair.latents) for t in self.terms])
        return _Gaussians(codes.double(), torch.cat(means), torch.cat(roots))

    def _moments(self, site: Site) -> tuple[Tensor, Tensor] | None:
        """Means `(b, d)` with scales `(b, d)` or lower triangles `(b, d, d)`, if Gaussian."""
        fn = site.fn
        if isinstance(fn, MULTIVARIATE_NORMAL):
            if len(fn.batch_shape) > 1:
                return None
            root = fn.scale_tril.double()
            return fn.mean.double(), root.expand(*fn.batch_shape, *root.shape[-2:])
        factors = univariate(self.pair, site)
        if not isinstance(factors, Normal):
            return None
        return factors.loc.double(), factors.scale.double()

    def _rerun(self, i: int, j: int) -> Tensor:
        n, m = (s.stop - s.start for s in (self.slices[i], self.slices[j]))
        values = {}
        for name in self.pair.latents:
            site = self.terms[i].guide[name]
            axis = self.pair.dim_of(site) - site.event_dim
            values[name] = site.value.repeat_interleave(m, axis)
        run = self.pair.run(self.pair.index[self.slices[j]].repeat(n), values)
        total: Tensor | float = 0.0
        for name in self.pair.latents:
            total = total + self.pair.log_prob(run.guide[name]).double()
        assert isinstance(total, Tensor)
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
        # Not the deviation of fn, a root of a square that underflows.
        loc, scale = (pair.flatten(site, p) for p in (base.loc, base.scale))
        return Normal(loc, scale, validate_args=False)
    if marginal and isinstance(fn, MULTIVARIATE_NORMAL):
        loc, scale = pair.flatten(site, fn.mean), pair.flatten(site, fn.stddev)
        return Normal(loc, scale, validate_args=False)
    plain = base.batch_shape == fn.batch_shape + fn.event_shape and len(base.batch_shape) == 2
    return base if plain and len(fn.batch_shape) == 1 else None


class _Gaussians:
    r"""The Gaussians $q(z | x_j)$ and the codes at which they are evaluated, in float64.

    log q(z_i | x_j) is a product of features of i and j plus a constant: $-\tfrac12 z^T P z +
    z^T P \mu$ and the rest. One matrix product replaces n^2 d elementwise work. The expanded
    square loses $\epsilon z^T P z$ to rounding; where that is more than a billionth of a nat,
    scales being small against the codes, differences are taken first.

    Args:
        codes: `(n, d)`.
        mean: `(n, d)`.
        root: scales `(n, d)`, or lower triangles `(n, d, d)` of the covariances.
    """

    def __init__(self, codes: Tensor, mean: Tensor, root: Tensor):
        self.codes, self.mean = codes, mean
        if root.dim() == 3:
            eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
            self.whiten = torch.linalg.solve_triangular(root, eye, upper=False)
            log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(1)
        else:
            self.whiten = root.reciprocal()
            log_det = root.log().sum(1)
        self.constant = -log_det - mean.shape[1] / 2 * math.log(2 * math.pi)
        centre = mean.mean(0)
        near, far = mean - centre, codes - centre
        widest = float(torch.maximum(near.abs().amax(), far.abs().amax()))
        steepest = float(self.whiten.abs().amax())
        lost = torch.finfo(codes.dtype).eps * mean.shape[1] * (widest * steepest) ** 2
        self.product = self._expanded(near, far) if lost < 1e-9 else None

    def _expanded(self, mean: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.whiten.dim() == 3:
            squares = (codes[:, :, None] * codes[:, None]).flatten(1)
            precision = self.whiten.mT @ self.whiten
            pulled = (precision @ mean[..., None])[..., 0]
        else:
            squares, precision = codes.square(), self.whiten.square()
            pulled = precision * mean
        constant = self.constant - 0.5 * (pulled * mean).sum(1)
        weights = torch.cat([-0.5 * precision.flatten(1), pulled], 1)
        return torch.cat([squares, codes], 1), weights, constant

    def log_density(self, rows: slice, columns: slice) -> Tensor:
        """`(rows, columns)`."""
        if self.product is not None:
            features, weights, constant = self.product
            return torch.addmm(constant[columns], features[rows], weights[columns].T)
        codes, mean, whiten = self.codes[rows], self.mean[columns], self.whiten[columns]
        found = []
        # Blocks of the differences, which are d times as many as the densities.
        size = max(1, 2**21 // codes.numel())
        for m, w in zip(mean.split(size), whiten.split(size), strict=True):
            apart = codes - m[:, None]
            z = apart @ w.mT if w.dim() == 3 else apart * w[:, None]
            found.append(-0.5 * z.square().sum(-1))
        return torch.cat(found).T + self.constant[columns]


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    d = sum(b.shape[-1] for b in blocks)
    full = blocks[0].new_zeros(len(blocks[0]), d, d)
    start = 0
    for b in blocks:
        stop = start + b.shape[-1]
        full[:, start:stop, start:stop] = b
        start = stop
    return full
