"""What the codes look like while they are trained: their noise and the spread of their means."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ppl_vae.program.modules import Program, evaluating, modules_of
from ppl_vae.program.plates import NoDataPlate
from ppl_vae.program.rows import Rows
from ppl_vae.program.running import read
from ppl_vae.program.wrapping import has_moments
from ppl_vae.training.history import History

__all__ = ["ROWS", "carried", "codes", "spreads", "warn_of_collapse"]

ROWS = 1000
"""Rows that are looked at: a spread of so many is within 5 % (two standard errors)."""

# Below so many nats per datum a code says nothing of its datum.
_COLLAPSED = 0.05


def spreads(
    model: Program, guide: Program, rows: Sequence[Tensor], batch_size: int = ROWS
) -> dict[str, float]:
    """The noise and the spread of the means of each code, over some rows.

    `sd/z[0]` is the root of the mean variance of q(z_0 | x), `spread/z[0]` the standard deviation
    of its mean over the rows; both in units of z, from the guide in evaluation mode. A site that
    depends on another is taken given that one's draw. Sites without a mean and a variance
    (discrete ones, implicit ones) are left out, and pairs without a data plate or with one row.

    Args:
        model: the model, which says what is a code.
        guide: the guide.
        rows: arguments of both, of which `ROWS` are taken, evenly spaced: neighbours may be alike.
        batch_size: rows to a run.
    """
    parts: dict[str, list[Tensor]] = {}
    modules = modules_of(model, guide).values()
    size = min(batch_size, ROWS)
    with torch.no_grad(), torch.random.fork_rng(), evaluating(*modules):
        count = len(rows[0])
        chosen = torch.arange(min(ROWS, count)) * count // min(ROWS, count)
        for k in range(max(1, len(chosen) // size)):
            some = chosen[k * size : (k + 1) * size]
            batch = tuple(part[some.to(part.device)] for part in rows)
            for name, moments in _moments(model, guide, batch):
                parts.setdefault(name, []).append(moments)
    found: dict[str, float] = {}
    for name, several in parts.items():
        mean, variance = torch.cat(several, 1)
        if len(mean) < 2:  # one row has no spread, which is not one of 0
            continue
        values = torch.stack([variance.mean(0).sqrt(), mean.std(0, correction=0)])
        for j, (sd, spread) in enumerate(values.T.tolist()):
            found[f"sd/{name}[{j}]"], found[f"spread/{name}[{j}]"] = sd, spread
    return found


def _moments(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> Iterator[tuple[str, Tensor]]:
    """Means and variances of the codes of each site, `(2, n, d)`."""
    reading = read(model, guide, batch, complete=False)
    try:
        plates, names = reading.plates(), reading.local()
    except NoDataPlate:
        return
    for name in names:
        site = reading.guide_sites[name]
        if not site.value.is_floating_point() or not has_moments(site.fn):
            continue
        try:
            moments = site.fn.mean, site.fn.variance
        except NotImplementedError:
            continue
        rows = Rows.of(site, plates)
        cut = [rows.cut(t.expand(site.shape), len(site.fn.batch_shape))[0] for t in moments]
        yield name, torch.stack(cut).double()


def warn_of_collapse(history: History, is_last: bool = False) -> None:
    """Warns when two epochs in a row, for the first time, have codes that say next to nothing.

    The rate is at least what they say. It is high all the same for codes of another spread than
    the prior's; there the means tell: a Gaussian channel of noise sd and an input of that spread
    carries log(1 + (spread / sd)^2) / 2 nats, and no other carries more. They are looked at after
    the last epoch only, and then unless they are on their way: at first most encoders widen
    before their means part.

    Args:
        history: the epochs so far.
        is_last: whether no epoch follows.
    """
    low = [row.get("rate", math.inf) < _COLLAPSED for row in history]
    twice = [a and b for a, b in pairwise(low)]
    said = [_said(row) for row in history.rows[-2:]]
    if twice[-1:] == [True] and not any(twice[:-1]):
        reason = f"the rate is {history.last['rate']:.2g}"
    elif is_last and not any(twice) and len(said) == 2 and said[1] <= min(said[0], _COLLAPSED):
        reason = f"the means carry {said[1]:.2g}"
    else:
        return
    warnings.warn(
        f"posterior collapse: {reason} nats, so the codes say nothing of the data; weaken the "
        "penalty, start the encoder narrower, standardise its means, or integrate its noise, "
        "which hides the pull of the data",
        stacklevel=6,
    )


def codes(row: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Noise and spread of each code of which a row of the log holds both."""
    names = [name.removeprefix("sd/") for name in row if name.startswith("sd/")]
    both = [name for name in names if f"spread/{name}" in row]
    return {name: (row[f"sd/{name}"], row[f"spread/{name}"]) for name in both}


def carried(noise: float, spread: float) -> float:
    r"""The most that a code can carry, $\log(1 + (s / \sigma)^2) / 2$ nats.

    Args:
        noise: $\sigma$, the standard deviation of q(z | x).
        spread: $s$, that of its means.
    """
    return math.log(math.hypot(1.0, spread / noise)) if noise > 0 else math.inf


def _said(row: Mapping[str, float]) -> float:
    """The most that codes of these spreads can carry, in nats."""
    found = codes(row)
    return sum(carried(*code) for code in found.values()) if found else math.inf
