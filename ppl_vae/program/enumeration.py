r"""Guide sites that take all their values at once, and expectations over them.

A guide site marked `infer={"enumerate": "parallel"}` is not sampled: it takes all its values,
along a batch dimension of its own to the left of the plates, and whatever depends on it has that
dimension too. A term of the loss is then the exact expectation over it,

$$\sum_k q(y = k \mid x)\, c(k), \qquad
  \nabla = \sum_k \nabla q(y = k \mid x)\, c(k) + q(y = k \mid x)\, \nabla c(k).$$
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ppl_vae.program.dimensions import dimension
from ppl_vae.program.sites import Site

__all__ = ["Enumeration"]


class Enumeration:
    """The enumerated sites of one run of a guide.

    Args:
        guide_sites: the guide's sites in the order sampled.

    Attributes:
        dims: the batch dimension of each enumerated site, by name.
    """

    def __init__(self, guide_sites: Mapping[str, Site]) -> None:
        self._sites = guide_sites
        dims = {name: dimension(site) for name, site in guide_sites.items()}
        self.dims: dict[str, int] = {n: dim for n, dim in dims.items() if dim is not None}
        self._probabilities: dict[str, Tensor] = {}

    def expectation(self, values: Tensor, site: Site) -> Tensor:
        """The sum of a site's values by entry, weighted where they depend on enumerated sites."""
        if not self.dims:
            return values.sum()
        weights = self.probability(self.choices(values.shape), site)
        if weights is None:
            return values.sum()
        # A choice of probability 0 may have any cost, an infinite one too.
        return (weights * torch.where(weights > 0, values, 0)).sum()

    def choices(self, *shapes: Sequence[int]) -> dict[str, int]:
        """The enumerated sites that tensors of these batch shapes depend on, with their sizes.

        With a site come those that its own distribution depends on.
        """
        seen, sizes = list(shapes), dict[str, int]()
        for name, dim in reversed(self.dims.items()):
            size = max((shape[dim] for shape in seen if len(shape) >= -dim), default=1)
            if size > 1:
                sizes[name] = size
                seen.append(self._probability(name).shape)
        return sizes

    def probability(self, choices: Iterable[str], site: Site) -> Tensor | None:
        """The joint probability of enumerated sites, by batch dimension; None of none.

        Args:
            choices: the enumerated sites, closed as `choices` closes them.
            site: the site whose values are weighted.

        Raises:
            ValueError: if one of them is in a plate that the site is not in.
        """
        joint = None
        for name in choices:
            for plate in self._sites[name].plates:
                if site.plate(plate.name) is None:
                    raise ValueError(
                        f"site {site.name!r} depends on the enumerated site {name!r} and is "
                        f"outside its plate {plate.name!r}: move it inside"
                    )
            own = self._probability(name)
            joint = own if joint is None else joint * own
        return joint

    def _probability(self, name: str) -> Tensor:
        if name not in self._probabilities:
            site = self._sites[name]
            self._probabilities[name] = site.fn.log_prob(site.value).exp()
        return self._probabilities[name]
