"""The FactorVAE score: which factor was held fixed, told by the code that varies least."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.factors import FactorData
from ppl_vae.evaluation.estimate import Estimate, share_of
from ppl_vae.evaluation.programs import check_positive

__all__ = ["factor_vae_score"]


def factor_vae_score(
    encode: Callable[[Tensor], Tensor],
    data: FactorData,
    votes: int = 1000,
    batch: int = 64,
    seed: int = 0,
    block: int = 1024,
) -> Estimate:
    """The accuracy of a majority vote for the factor that was held fixed.

    A batch of images shares one factor, the others vary; the code dimension of least variance, in
    units of its variance over all images, votes for that factor. Half of the votes set which
    factor each dimension stands for, the other half score it. Dimensions of almost no variance
    (below a thousandth of the largest) do not vote: they would always win.

    Args:
        encode: from images to codes `(n, d)`, posterior means by custom.
        data: the factors and how to render them.
        votes: how many batches.
        batch: images in each.
        seed: of the images.
        block: images held at once.

    References:
        Kim and Mnih (2018), Disentangling by factorising, arXiv:1802.05983.
    """
    check_positive(votes=votes, batch=batch, block=block)
    if votes < 2 or batch < 2:
        raise ValueError("factor_vae_score needs 2 votes and 2 images a batch or more")
    generator = torch.Generator().manual_seed(checked_seed(seed))
    codes = encode(data.sample(max(1000, batch), generator)[0]).double().cpu()
    spread = codes.var(0)
    active = spread > 1e-3 * spread.max()
    varying = [k for k, levels in enumerate(data.levels) if levels > 1]
    if not varying:
        raise ValueError("no factor varies: each has one level")
    table = torch.zeros(2, codes.shape[1], len(data.levels))
    together = max(1, block // batch)
    for start in range(0, votes, together):
        count = min(together, votes - start)
        fixed = torch.tensor(varying)[torch.randint(len(varying), (count,), generator=generator)]
        factors = data.sample_factors(count * batch, generator).view(count, batch, -1)
        picked = fixed[:, None, None].expand(-1, batch, 1)
        first = factors[:, :1].expand(-1, batch, -1).gather(2, picked)
        factors = factors.scatter(2, picked, first)
        z = encode(data.render(factors.flatten(0, 1))).double().cpu()
        ratio = z.view(count, batch, -1).var(1) / spread
        votes_for = torch.where(active, ratio, math.inf).argmin(1)
        for offset, (j, k) in enumerate(zip(votes_for, fixed, strict=True)):
            table[(start + offset) % 2, j, k] += 1
    chosen = table[0].argmax(1)
    total = int(table[1].sum())
    right = float(table[1][torch.arange(len(chosen)), chosen].sum()) / total
    found = share_of(right, total, f"{votes} votes, {int(active.sum())} active units")
    return replace(found, standard_error=found.data_error)
