"""Draws from the model and reconstructions of data, and numbers read off them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, mean_of, mean_over_rows
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.pair import Pair, Terms
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.program.handlers import Unobserve
from ppl_vae.program.sites import Site

__all__ = [
    "METRICS",
    "draw",
    "drawn_as",
    "generate",
    "has_mean",
    "reconstruction_error",
    "samples_of",
    "sharpness",
]


def generate(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int,
    mean: bool = True,
    site: str | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> Tensor:
    """Draws data from the model: latents from the prior, then the observed site.

    Args:
        model: the generative program.
        guide: the encoder program, from which latents outside the data plate are drawn once.
        x: rows of data; only their number and shape are used, and any covariates, in turn.
        num_samples: how many draws.
        mean: the likelihood's mean at each latent draw (what papers show as samples) and not a
            draw of its noise.
        site: the observed site, where the model has several.
        block: draws held at once by the model.
        plate: the data plate's name, where the pair leaves a choice.

    Returns:
        `(num_samples, *size)`.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    with evaluating(model, guide):
        return torch.cat(list(draws(pair, num_samples, mean, site)))


def draw(
    model: Program,
    guide: Program,
    x: Data,
    n: int,
    mean: bool = True,
    site: str | None = None,
    plate: str | None = None,
    block: int | None = 1024,
) -> Tensor:
    """Data from the model at n draws of the prior, `(n, *size)`.

    Args:
        model: the generative program.
        guide: the encoder program, from which latents outside the data plate are drawn once.
        x: rows of data; only their number and shape are used, and any covariates, in turn.
        n: how many.
        mean: means of p(x | z), where it has one in closed form, and not draws: what pictures
            show.
        site: the observed site, where the model has several.
        plate: the data plate's name, where the pair leaves a choice.
        block: rows held at once.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    pair = Pair(model, guide, x, plate, block)
    with evaluating(model, guide):
        mean = mean and has_mean(pair, site)
        return torch.cat(list(draws(pair, n, mean, site)))


def drawn_as(model: Program, guide: Program, x: Data, plate: str | None = None) -> str:
    """What `draw` gives, in words."""
    pair = Pair(model, guide, x, plate)
    with evaluating(model, guide):
        what = "Means" if has_mean(pair) else "Draws"
    return f"{what} of p(x | z) at draws of z from the prior"


def has_mean(pair: Pair, site: str | None = None) -> bool:
    """Whether p(x | z) has a mean in closed form; pixel by pixel, or by channel, it has none."""
    found = pair.run(pair.sample).model[0][observed_site(pair, site)]
    try:
        found.mean()
    except ValueError:
        return False
    return True


def draws(
    pair: Pair,
    num_samples: int,
    mean: bool = True,
    site: str | None = None,
    values: Mapping[str, Tensor] | None = None,
    rows: Tensor | None = None,
) -> Iterator[Tensor]:
    """The blocks of `generate`, under one draw of the globals.

    Args:
        pair: the pair.
        num_samples: how many draws.
        mean: the likelihood's mean and not a draw.
        site: the observed site, where the model has several.
        values: of latents of each draw, in rows `(num_samples, size)`; others are sampled.
        rows: the datum whose covariates each draw has; all data in turn by default. A model that
            runs whole takes its own.
    """
    name = observed_site(pair, site)
    sliced = pair.blocks.how_model == "sliced"
    if values:
        pair.blocks.reading.check_drawn()
    size = (pair.block or num_samples) if sliced else len(pair)
    rows = torch.arange(num_samples) % len(pair) if rows is None else rows
    for start in range(0, num_samples, size):
        count = min(size, num_samples - start)
        at = torch.arange(start, start + count)
        # a model that runs whole runs on as many rows as ever
        at = at if sliced else torch.cat([at, at.new_full((size - count,), start)])
        given = {k: pair.shaped(k, v[at.to(v.device)]) for k, v in (values or {}).items()}
        with Unobserve(observed_variables(pair)):
            sites = pair.blocks.model_run(
                pair.held | given, pair.index[rows[at]] if sliced else None, sums=False
            )
        yield of_rows(pair, sites[name], mean)[:count]


def reconstruction_error(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 4,
    site: str | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""The squared error of reconstructions, $E_{q(z|x)} \lVert x - E[x|z] \rVert^2 / D$.

    In squared units of x per element of x (D of them): 0.01 is an error of a tenth of the range
    for data in [0, 1]. Unbiased. Of a row with missing elements it is the mean over the others;
    rows of nothing else are left out.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: draws of z per datum.
        site: the observed site, where the model has several.
        block: rows times draws held at once.
        plate: the data plate's name, where the pair leaves a choice.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    name = observed_site(pair, site)

    def errors(terms: Terms) -> list[Tensor]:
        sites = [part[name] for part in terms.model]
        gaps = [of_rows(pair, site, True) - present(pair, site) for site in sites]
        return [torch.cat([gap.square().reshape(len(gap), -1).nanmean(1) for gap in gaps])]

    with evaluating(model, guide):
        found = pair.table(errors, num_samples)[0]
        seen = ~found.isnan().any(1)
        if not seen.any():
            raise ValueError("every value is missing: there is none to compare with")
        return mean_over_rows(found[seen], note=pair.note)


def sharpness(images: Tensor, block: int = 1024) -> Estimate:
    """The variance of Laplace-filtered images, averaged over images.

    Blurred images have little of it. It means something only next to the value of the data, and
    noise raises it. Channels are averaged first; the border of one pixel is left out.

    Args:
        images: `(n, h, w)` or `(n, channels, h, w)`, 3 pixels or more each way.
        block: images held at once.

    References:
        Tolstikhin, Bousquet, Gelly and Schölkopf (2018), Wasserstein auto-encoders,
        arXiv:1711.01558, appendix.
    """
    if images.dim() not in (3, 4) or min(images.shape[-2:]) < 3 or not len(images):
        raise ValueError(f"images of shape {tuple(images.shape)}: (n, [channels,] h, w) needed")
    found = []
    for batch in images.split(block):
        grey = batch.mean(1) if batch.dim() == 4 else batch
        centre = grey[:, 1:-1, 1:-1]
        across = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        down = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
        found.append((across + down - 4 * centre).flatten(1).var(1, correction=0))
    return mean_of(torch.cat(found))


def observed_site(pair: Pair, asked: str | None = None) -> str:
    """The observed variable that is asked for, or the only one; of several the first argument."""
    names = observed_variables(pair)
    if asked is None:
        sites, first = pair.blocks.reading.model_sites, pair.blocks.reading.args[0]
        given = [name for name in names if _observes(sites[name].value, first)]
        if len(names) == 1 or len(given) == 1:
            return (given or names)[0]
    if asked is not None and asked in names:
        return asked
    raise ValueError(f"site is {asked!r}: choose one of the observed sites {names}")


def _observes(value: Tensor, rows: Tensor) -> bool:
    """Whether a site's value is the rows, or these with missing values filled in."""
    if value is rows or value.shape != rows.shape:
        return value is rows
    missing = rows.isnan()
    return bool(missing.any()) and torch.equal(value[~missing], rows[~missing])


def observed_variables(pair: Pair) -> list[str]:
    """The sites of data that the model can sample.

    Raises:
        ValueError: if there is none.
    """
    pair.require_observed()
    sites = pair.blocks.reading.model_sites
    names = [name for name in pair.observed if sites[name].role == "observed"]
    if not names:
        raise ValueError(
            f"the model observes no variable in plate {pair.plate!r}: its likelihood is a "
            "pyro.factor, which cannot be sampled"
        )
    return names


def present(pair: Pair, site: Site) -> Tensor:
    """A site's values, rows first, NaN where they are missing."""
    if site.missing is not None:
        site = replace(site, value=torch.where(site.missing, torch.nan, site.value))
    return of_rows(pair, site, mean=False)


def of_rows(pair: Pair, site: Site, mean: bool) -> Tensor:
    """A site's means or values, rows first."""
    value = site.mean() if mean else site.value
    value = value.expand(torch.broadcast_shapes(value.shape, site.shape))
    return value.movedim(pair.dim_of(site) - site.event_dim, 0)


def samples_of(subject: Subject) -> Tensor:
    """As many samples of the model as there are rows, or `effort.rows` if fewer."""
    return draw(*subject.pair, subject.args, min(len(subject.x), subject.effort.rows))


def _images(subject: Subject) -> Tensor:
    if subject.x.dim() < 3 or min(subject.x.shape[-2:]) < 3:
        raise ValueError("sharpness is of images, and these data are none")
    whole = subject.x[~subject.x.flatten(1).isnan().any(1)]
    if not len(whole):
        raise ValueError("sharpness is of whole images, and each has missing values")
    return whole


def _sharpness(subject: Subject) -> Estimate:
    _images(subject)
    samples = subject.once(samples_of)
    note = f"{len(samples)} samples: {drawn_as(*subject.pair, subject.args)}"
    return replace(sharpness(samples), note=note)


METRICS = (
    Metric(
        "reconstruction_error",
        "Reconstruction error",
        "squared units of x",
        "per element of x",
        "samples",
        lambda s: reconstruction_error(*s.pair, s.args),
    ),
    Metric(
        "sharpness",
        "Sharpness of samples",
        "squared units of x",
        "next to that of the data",
        "samples",
        _sharpness,
    ),
    Metric(
        "sharpness_data",
        "Sharpness of the data",
        "squared units of x",
        "",
        "samples",
        lambda s: sharpness(_images(s)),
    ),
)
