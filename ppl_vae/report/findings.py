"""What the numbers of a run say, in words: the rules and their thresholds.

A rule looks at the metrics of `summary.json`, at the epochs and at what the objective asks for,
and says one thing or nothing. Thresholds stand here with their reasons, and nowhere else.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from statistics import median
from typing import Any, Literal

from ppl_vae.evaluation.codes import ACTIVE
from ppl_vae.evaluation.weights import HIGHEST_USABLE
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import InfoVAE
from ppl_vae.priors import StandardNormal
from ppl_vae.records import p_value
from ppl_vae.training.history import History
from ppl_vae.training.spread import carried, codes

__all__ = ["Facts", "Finding", "facts", "findings", "judge"]

SURE = 3.0
"""Standard errors from which a difference is taken for one: 1 in 370 by chance."""

USED = 0.1
"""Nats per datum below which a code is worth nothing to the decoder: a tenth of what tells e
things apart, and less than what two trainings of one model differ by."""

SILENT = 0.005
"""Nats that a code's mean can carry at most, (1/2) log(1 + (spread / noise)^2), below which it
says nothing: a spread of a tenth of the noise. `active_units` has the same line for a noise of 1,
but by the spread alone: a code of little spread and less noise is inactive, and says much."""

SPREAD = 0.1
"""log det of the covariance of q(z) over d, from which it is too wide or too narrow: 5 % of the
standard deviation in each dimension."""

MISMATCH = 0.01
"""Squared MMD from which samples of the prior look unlike codes: that of codes a fifth narrower in
each dimension, or off by a fifth of a standard deviation in each, whatever their number, under
the default kernel."""

FEW = 0.5
"""Share of data with a usable k-hat below which importance sampling from the guide is no use: the
mean over data is then made of those it is wrong for."""

RARE = 0.01
"""p-value of all ranks together below which q(z|x) is not the posterior."""

RISE = 0.02
"""Rise of the held-out loss after its least value, in shares of its fall before, from which the
training went on too long; below `USED` nats it is none."""

_WEAKER = {
    "beta": "lower beta",
    "alpha": "raise alpha",
    "capacity": "raise capacity",
    "tolerance": "lower tolerance",
    "information": "raise information",
    "mutual_information": "lower mutual_information",
}
"""What has the code say more, by the argument of an objective."""

_CLOSER = {"scale": "Raise lambda (scale=)", "total_correlation": "Raise total_correlation"}
"""What brings q(z) nearer to the prior, by the argument of an objective."""

_WEIGH_CODES = "Have a divergence of q(z) and the prior in the objective (InfoVAE, WAE)"

Level = Literal["good", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that the numbers say.

    Attributes:
        level: `"good"`, `"note"` for what depends on the use, or `"problem"`.
        topic: in a few words.
        text: what was found, with its number and what it means.
        advice: what to change; empty where there is nothing to.
        section: of the report that shows it.
    """

    level: Level
    topic: str
    text: str
    advice: str = ""
    section: str = "metrics"

    def __str__(self) -> str:
        advice = f" {self.advice}" if self.advice else ""
        return f"{self.level}: {self.topic}: {self.text}{advice}"


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        metrics: the entries of `summary.json` by name.
        history: the epochs.
        alpha: how much of the KL of a datum the objective leaves out; 1 does not ask q(z|x) to be
            the posterior.
        standard: whether the prior is a standard normal.
        settings: names of the objective's arguments, those that advice may speak of.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    history: History
    alpha: float = 0.0
    standard: bool = True
    settings: Collection[str] = ()

    def value(self, name: str) -> float | None:
        """A metric's value, if it has one."""
        found: float | None = self.metrics.get(name, {}).get("value")
        return found

    def error(self, name: str) -> float:
        """Its standard error, 0 where it has none."""
        entry = self.metrics.get(name, {})
        error = entry.get("data_error")
        return float(error if error is not None else entry.get("standard_error") or 0.0)


def facts(found: Mapping[str, Any], history: History, experiment: Experiment) -> Facts:
    """The facts of a run: what its `summary.json` holds, its epochs, its parts."""
    objective = experiment.objective
    alpha = objective.at_step(objective.alpha) if isinstance(objective, InfoVAE) else 0.0
    standard = isinstance(experiment.pair.prior, StandardNormal)
    settings = signature(type(objective)).parameters
    return Facts(found["metrics"], history, float(alpha), standard, settings)


def findings(found: Mapping[str, Any], history: History, experiment: Experiment) -> list[Finding]:
    """What a run's numbers say, problems first."""
    return judge(facts(found, history, experiment))


def judge(facts: Facts) -> list[Finding]:
    """What the rules say of some facts, problems first."""
    told = [finding for rule in RULES if (finding := rule(facts)) is not None]
    order: Sequence[Level] = ("problem", "note", "good")
    return sorted(told, key=lambda finding: order.index(finding.level))


def _usage(f: Facts) -> Finding | None:
    """Whether the decoder uses the code."""
    topic, usage, rate = "use of the code", f.value("usage"), f.value("rate")
    ways = [
        *(way for name, way in _WEAKER.items() if name in f.settings),
        "give a strong decoder a path for z (maps=)",
        "standardise the encoder (rate=)",
    ]
    listed = ", ".join(ways)
    weaken = f"{listed[0].upper()}{listed[1:]}, or train longer: see docs/choosing.md."
    if usage is None:
        if rate is None or rate >= USED:
            return None
        text = f"the rate is {rate:.2g} nats: q(z|x) is all but the prior for every datum."
        return Finding("problem", topic, text, weaken)
    if usage < max(USED, SURE * f.error("usage")):
        text = f"another datum's code costs the decoder {usage:.2g} nats: "
        if usage < USED:
            text += "it reconstructs without looking at z."
        else:
            text += f"within {SURE:g} standard errors ({f.error('usage'):.2g}) of none."
        return Finding("problem", topic, text, weaken)
    text = f"another datum's code costs the decoder {usage:.3g} nats: it uses z."
    return Finding("good", topic, text)


def _silent(f: Facts) -> Finding | None:
    """Which codes say nothing."""
    found = _codes(f)
    silent = [name for name, code in found.items() if carried(*code) < SILENT]
    if not silent:
        return None
    some = (
        f"{len(silent)} of {len(found)} codes say nothing of the data, their means spreading by "
        f"less than a tenth of their noise: {_listed(silent)}."
    )
    units = f.value("active_units")
    if units is not None and units != len(found) - len(silent):
        some += f" Active units, by a variance of the means above {ACTIVE:g}, are {units:.0f}."
    if len(silent) == len(found):
        return Finding("problem", "collapse", some, section="codes")
    advice = "Fewer dimensions would do, or a weaker penalty."
    return Finding("note", "codes that say nothing", some, advice, "traversals")


def _match(f: Facts) -> Finding | None:
    """Whether q(z) matches the prior."""
    # a learned prior has a covariance of its own, and the determinant is against that of N(0, I)
    mmd, log_det = f.value("mmd_u"), f.value("log_det") if f.standard else None
    if mmd is None and log_det is None:
        return None
    said = []
    if log_det is not None and abs(log_det) > max(SPREAD, SURE * f.error("log_det")):
        width = "wider" if log_det > 0 else "narrower"
        said.append(f"q(z) is {width} than the prior (log det over d {log_det:.2g})")
    if mmd is not None and mmd > max(MISMATCH, SURE * f.error("mmd_u")):
        said.append(f"MMD² to the prior is {mmd:.2g}")
    topic = "match of q(z) and the prior"
    if not said:
        number = f"MMD² {mmd:.2g}" if mmd is not None else f"log det over d {log_det:.2g}"
        return Finding("good", topic, f"{number}: samples of the prior are like codes.")
    off = [
        f"{name} has sd {sd:.2g}"
        for name, (noise, spread) in _codes(f).items()
        if f.standard and ((sd := math.hypot(noise, spread)) > 1.25 or sd < 1 / 1.25)
    ]
    where = f"; {_listed(off)}" if off else ""
    text = f"{', '.join(said)}{where}: the decoder is asked at samples for what it has not seen."
    ways = [way for name, way in _CLOSER.items() if name in f.settings]
    advice = f"{ways[0] if ways else _WEIGH_CODES} or train longer."
    return Finding("problem", topic, text, advice, "codes")


def _posterior(f: Facts) -> Finding | None:
    """Whether q(z|x) can be taken for the posterior."""
    topic = "q(z|x) as a posterior"
    covered, error = f.value("coverage/90"), f.error("coverage/90")
    usable, ranks = f.value("khat_usable"), f.value("sbc/all")
    middle, more = f.value("khat_median"), ""
    if covered is None and usable is None:
        return None
    said, wrong = [], False
    if covered is not None:
        off = abs(covered - 0.9) > SURE * error
        width = f", so q is too {'narrow' if covered < 0.9 else 'wide'}" * off
        said.append(f"90 % intervals hold {covered:.0%} of the codes of simulated data{width}")
        wrong |= off
    if usable is not None:
        said.append(f"k-hat is usable for {usable:.0%} of the data")
        # the threshold rises with the draws up to the highest: below that, they are too few
        if usable < FEW and middle is not None and middle < HIGHEST_USABLE:
            said[-1] += f", for want of draws: it is {middle:.2g} in the median"
            more = f"Take {math.ceil(10 ** (1 / (1 - middle)))} draws at least (--samples)."
        wrong |= usable < FEW and not more
    text = "; ".join(said) + "."
    if wrong and f.alpha >= 1:
        text += " Nothing at alpha = 1 asks that of q(z|x): take codes as features."
        return Finding("note", topic, text, "For a posterior train with alpha below 1.", "khat")
    if wrong:
        advice = "Do not read uncertainty off it; a richer guide (full covariance, flow) may do."
        return Finding("problem", topic, text, advice, "coverage")
    if ranks is not None and ranks < RARE:
        text += f" These do not tell it from the posterior, yet ranks do (p {p_value(ranks)})."
        return Finding("note", topic, text, more, "sbc")
    return Finding("note" if more else "good", topic, text, more, "coverage")


def _likelihood(f: Facts) -> Finding | None:
    """Whether the likelihood can be believed."""
    value = f.value("log_likelihood")
    if value is None:
        return None
    entry, topic = f.metrics["log_likelihood"], "likelihood"
    if entry.get("flag"):
        text = f"log p(x) of {value:.4g} is a bound that may be off by nats: {entry['flag']}."
        advice = "Take more samples, or a richer proposal: see its note."
        return Finding("problem", topic, text, advice)
    by = "a proposal fitted to each datum" if "fitted" in entry["note"] else "the guide's draws"
    error = f.error("log_likelihood")
    text = f"log p(x) is {value:.4g} +- {error:.2g} by {by}, whose weights are even enough."
    return Finding("good", topic, text)


def _rise(f: Facts) -> Finding | None:
    """Whether the held-out loss rises."""
    topic, name = "held-out loss", "validation/loss"
    if name not in f.history.names:
        return None
    losses = f.history[name]
    best = min(range(len(losses)), key=losses.__getitem__)
    # three epochs, as a single one is up or down by the noise of its last steps
    fall, rise = losses[0] - losses[best], median(losses[-3:]) - losses[best]
    if best >= len(losses) - 3 or rise <= max(RISE * fall, USED):
        return None
    text = (
        f"least at epoch {best + 1} of {len(losses)}, and {rise:.3g} nats above that at the end: "
        "the model learns its training rows by heart."
    )
    return Finding("problem", topic, text, 'End there: patience=3, keep="best".', "curves")


def _predictive(f: Facts) -> Finding | None:
    """Which statistics of the data the model does not produce."""
    name = "predictive/"
    far = {
        key.removeprefix(name): value
        for key in f.metrics
        if key.startswith(name)
        and (value := f.value(key)) is not None
        and min(value, 1 - value) < RARE / 2
    }
    if not far:
        return None
    sides = {"upper": "<= ", "lower": ">= ", None: ""}
    told = _listed([
        f"{statistic} (p {sides[f.metrics[name + statistic].get('bound')]}{value:.3g})"
        for statistic, value in far.items()
    ])  # fmt: skip
    text = f"the model does not produce the data's {told}."
    return Finding("problem", "model and data", text, "Look at the likelihood's family.")


RULES: tuple[Callable[[Facts], Finding | None], ...] = (
    _usage,
    _silent,
    _match,
    _posterior,
    _likelihood,
    _predictive,
    _rise,
)


def _codes(f: Facts) -> dict[str, tuple[float, float]]:
    """Noise and spread of each code after the last epoch."""
    return codes(f.history.last) if len(f.history) else {}


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
