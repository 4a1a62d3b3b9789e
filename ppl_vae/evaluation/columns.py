"""How well each column of a table is reconstructed, in its own units."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.data.columns import Column
from ppl_vae.data.transform import Transform
from ppl_vae.evaluation.estimate import Estimate, mean_over_rows
from ppl_vae.evaluation.metric import Inapplicable, Metric, Subject
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.samples import observed_site, of_rows, present

__all__ = ["column_errors"]


def column_errors(
    model: Program,
    guide: Program,
    x: Data,
    columns: Sequence[Column],
    transform: Transform | None = None,
    num_samples: int = 4,
    site: str | None = None,
    block: int | None = 1024,
    plate: str | None = None,
) -> dict[str, Estimate]:
    r"""The errors of each column's reconstruction, in the units of the data.

    Expectations under $q(z \mid x)$, with m the mean of $p(x \mid z)$, over the rows in which a
    column is not missing; unbiased, but for the root and for the variance of those rows.

    * Real columns and counts: `rmse`, $\sqrt{E (x - m)^2}$, and `explained`,
      $1 - E (x - m)^2 / \mathrm{var}\, x$.
    * Counts: `deviance`, Poisson's, $E\, 2 (x \log (x / m) - x + m)$ in nats.
    * Classes and binary columns: `accuracy`, the share whose likeliest value is theirs, and
      `log_loss`, $-E \log m$ of their own value in nats.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        columns: of x, as `Table(...).layout.x`.
        transform: what was done to the values of x, as `Table(...).transform`.
        num_samples: draws of z per datum.
        site: the observed site, where the model has several.
        block: rows times draws held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Returns:
        Estimates by `column/error`.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    name = observed_site(pair, site)
    width = sum(column.width for column in columns)
    parts: list[tuple[Tensor, Tensor]] = []
    with evaluating(model, guide):
        for terms in pair.runs(num_samples):
            sites = [part[name] for part in terms.model]
            means, values = (
                torch.cat([find(site).reshape(-1, width) for site in sites]).double()
                for find in (lambda s: of_rows(pair, s, True), lambda s: present(pair, s))
            )
            parts.append((means, values))
    columnwise = zip(*parts, strict=True)
    if pair.sliced:  # the draws of a row follow one another
        mean, value = (torch.cat(part).view(-1, num_samples, width) for part in columnwise)
    else:
        mean, value = (torch.stack(part, 1) for part in columnwise)
    transform = transform or Transform()
    mean, value = transform.undo(mean), transform.undo(value)
    found: dict[str, Estimate] = {}
    start = 0
    for column in columns:
        place = slice(start, start + column.width)
        start += column.width
        seen = ~value[..., place].isnan().any(2).any(1)
        if seen.any():
            errors = _errors(column, value[seen][..., place], mean[seen][..., place])
            note = ", ".join(filter(None, [f"{int(seen.sum())} rows", pair.note]))
            found |= {f"{column.name}/{k}": replace(e, note=note) for k, e in errors.items()}
    return found


def _errors(column: Column, x: Tensor, mean: Tensor) -> dict[str, Estimate]:
    """Of one column's present values and the means at draws of z, `(n, draws, width)`."""
    if column.kind == "class":
        right = x.argmax(2) == mean.argmax(2)
        return _classified(right, (x * mean).sum(2))
    x, mean = x[..., 0], mean[..., 0]
    if column.kind == "binary":
        right = (mean > 0.5) == (x > 0.5)
        return _classified(right, torch.where(x > 0.5, mean, 1 - mean))
    squared = mean_over_rows((x - mean).square())
    root, variance = math.sqrt(squared.value), float(x[:, 0].var(correction=0))
    found = {"rmse": _moved(squared, root, 0.5 / root if root else 0.0)}
    if variance > 0:
        found["explained"] = _moved(squared, 1 - squared.value / variance, 1 / variance)
    if column.kind == "count":
        m = mean.clamp_min(torch.finfo(torch.float32).tiny)
        found["deviance"] = mean_over_rows(2 * (torch.xlogy(x, x / m) - x + m))
    return found


def _classified(right: Tensor, p: Tensor) -> dict[str, Estimate]:
    losses = -p.clamp_min(torch.finfo(torch.float32).tiny).log()
    return {"accuracy": mean_over_rows(right), "log_loss": mean_over_rows(losses)}


def _moved(of: Estimate, value: float, slope: float) -> Estimate:
    """A function of an estimate, its errors to first order."""
    one, other = (None if e is None else slope * e for e in (of.standard_error, of.data_error))
    return Estimate(value, one, other)


def _by_column(subject: Subject) -> dict[str, Estimate]:
    data = subject.data
    if data.layout is None:
        raise Inapplicable("the data are no table of named columns")
    return column_errors(*subject.pair, subject.args, data.layout.x, data.transform)


def _metric(error: str, title: str, unit: str, reading: str) -> Metric:
    def compute(subject: Subject) -> dict[str, Estimate]:
        found = {
            column: value
            for name, value in subject.once(_by_column).items()
            for column, _, kind in [name.rpartition("/")]
            if kind == error
        }
        if not found:
            raise Inapplicable(f"no column has a {error}")
        return found

    return Metric(f"column_{error}", f"{title} of {{}}", unit, reading, "samples", compute)


METRICS = (
    _metric("rmse", "Root mean squared error", "units of the column", "of the reconstruction"),
    _metric("explained", "Share of variance", "share", "1 where the reconstruction is exact"),
    _metric("deviance", "Poisson deviance", "nats", "0 where the reconstruction is exact"),
    _metric("accuracy", "Accuracy", "share right", "of the likeliest value"),
    _metric("log_loss", "Log loss", "nats", "0 where the reconstruction is certain and right"),
)
