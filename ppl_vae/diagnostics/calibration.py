"""Simulation-based calibration of the amortised posterior, and coverage of its intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ppl_vae.diagnostics.densities import check_prediction
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.diagnostics.simulation import JOINT, placed, simulated_ranks
from ppl_vae.diagnostics.sites import draw_count
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import P_VALUE, Metric, Subject
from ppl_vae.evaluation.programs import Data, Program, seeded
from ppl_vae.evaluation.terms import require_density
from ppl_vae.pairs.pair import Pair as LibraryPair
from ppl_vae.records import Record, table

if TYPE_CHECKING:
    import pandas

__all__ = ["METRICS", "Calibration", "Coverage", "calibration_of", "coverage", "sbc"]


@dataclass(frozen=True, repr=False)
class Coverage(Record):
    """Coverage of central credible intervals.

    Attributes:
        levels: nominal levels, (m,).
        observed: share of simulations whose truth is inside, for each latent, (m, *event).
        error: standard error of `observed` if the guide were exact, (m,).
        simulations: number of simulations.
    """

    levels: np.ndarray
    observed: dict[str, np.ndarray]
    error: np.ndarray
    simulations: int

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each level and a column for each quantity."""
        levels = len(self.levels)
        means = {k: np.asarray(v).reshape(levels, -1) for k, v in self.observed.items()}
        columns = {
            name if v.shape[1] == 1 else f"{name}[{j}]": v[:, j]
            for name, v in means.items()
            for j in range(v.shape[1])
        }
        return table(columns, self.levels, "level")

    def summary(self) -> dict[str, float]:
        """Figures for a table: coverage averaged over each latent's components."""
        return {
            f"{name}@{level:g}": float(values[i].mean())
            for name, values in self.observed.items()
            for i, level in enumerate(self.levels)
        }


@dataclass(frozen=True, repr=False)
class Calibration(Record):
    """Result of simulation-based calibration.

    Attributes:
        ranks: rank of the true latent among the guide's draws, 0 to `draws`, for each latent,
            (simulations, *event), ties broken at random. `log_joint` ranks log p(x, z).
        uniform: the same as a number in (0, 1), uniform if the guide is exact.
        p_values: of a Kolmogorov-Smirnov test of uniformity, for each latent, (*event).
        contraction: 1 - (mean variance of the guide) / (variance of the true latents), (*event),
            variances with n - 1: near 0 the guide says no more than the prior.
        draws: number of draws L from the guide in each simulation.
    """

    ranks: dict[str, np.ndarray]
    uniform: dict[str, np.ndarray]
    p_values: dict[str, np.ndarray]
    contraction: dict[str, np.ndarray]
    draws: int

    @property
    def simulations(self) -> int:
        return len(next(iter(self.ranks.values())))

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of them (Bonferroni), at most 1."""
        every = np.concatenate([np.ravel(p) for p in self.p_values.values()])
        return float(min(1.0, every.min() * every.size))

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> Coverage:
        """Coverage of the central credible intervals, from the same simulations.

        Raises:
            ValueError: if a level is not between 0 and 1.
        """
        nominal = np.asarray(levels, dtype=float)
        if nominal.ndim != 1 or not len(nominal) or not ((nominal > 0) & (nominal < 1)).all():
            raise ValueError(f"levels must be numbers between 0 and 1, got {levels!r}")
        inside = {
            name: np.stack([(np.abs(u - 0.5) <= c / 2).mean(0) for c in nominal])
            for name, u in self.uniform.items()
            if name != JOINT
        }
        error = np.sqrt(nominal * (1 - nominal) / self.simulations)
        return Coverage(nominal, inside, error, self.simulations)

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each quantity: its p-value and its contraction."""
        columns: dict[str, list[float]] = {"p_value": [], "contraction": []}
        index: list[str] = []
        for name, p_values in self.p_values.items():
            flat, contracted = np.ravel(p_values), np.ravel(self.contraction[name])
            index += [name] if flat.size == 1 else [f"{name}[{j}]" for j in range(flat.size)]
            columns["p_value"] += flat.tolist()
            columns["contraction"] += contracted.tolist()
        return table(columns, index, "quantity")

    def summary(self) -> dict[str, float]:
        """Figures for a table."""
        worst = {f"p_{name}": float(np.min(p)) for name, p in self.p_values.items()}
        mean = {f"contraction_{k}": float(np.mean(v)) for k, v in self.contraction.items()}
        return {"p_value": self.p_value, **worst, **mean, "simulations": float(self.simulations)}


def sbc(
    model: Program,
    guide: Program,
    x: Data,
    *,
    simulations: int = 1000,
    draws: int = 99,
    seed: int | None = None,
    plate: str | None = None,
    arguments: Callable[[dict[str, Tensor]], tuple[Any, ...]] | None = None,
    block: int = 8192,
) -> Calibration:
    r"""Simulation-based calibration of q(z given x).

    Latents and data are drawn from the model, $z^*, x^* \sim p(z) p(x \mid z)$, the guide
    is run at $x^*$, and the rank of $z^*$ among L of its draws is taken. If the guide
    is the posterior everywhere the ranks are uniform. Ranks heaped at both ends mean a guide too
    narrow, in the middle too wide, on one side biased.

    A guide that ignores x and returns the prior has uniform ranks, too. Therefore the joint
    density $\log p(x^*, z)$, which depends on the data, is ranked as well.

    Each datum of the plate is a simulation: the model runs on `x` with its observed sites
    drawn, as often as `simulations` asks. Covariates among the arguments stay. Latents outside
    the plate are drawn from the guide once for each run and held for both sides, so that the
    local guide is judged given them.

    Args:
        model, guide: Pyro callables of the same arguments with a full vectorised data plate.
        x: rows of data, or the tuple of the callables' arguments. What is observed in the model
            is replaced by its draw.
        simulations: how many.
        draws: number of draws L from the guide in each.
        seed: makes it repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        arguments: makes the arguments from the drawn observed sites, by name. Needed where no
            argument is observed as it is, as in `obs=x.flatten(1)`. An observation outside the
            data plate that is no argument stays as it is.
        block: how many draws times data are run at once.

    Raises:
        ValueError: if there is no data plate, if the likelihood is a factor, if it is not seen
            which argument is observed, or if a number is too small (10 simulations, 9 draws).

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
        calibration, arXiv:1804.06788.
        Modrák et al. (2023), Simulation-based calibration checking for Bayesian computation: the
        choice of test quantities shapes sensitivity, arXiv:2211.02383.
    """
    from scipy.stats import kstest  # type: ignore[import-untyped]

    draw_count(simulations, 10, "simulations")
    draw_count(draws, 9)
    pair = Pair(model, guide, x, plate)
    check_prediction(pair)
    rebuild = arguments or placed(pair)
    rounds = []
    with seeded(seed):
        pair.vectorise  # noqa: B018  tried once, before it is copied to every simulated data set
        for _ in range(-(-simulations // pair.size)):
            rounds.append(simulated_ranks(pair, rebuild, draws, block))
    tables = [
        {k: np.concatenate([r[i][k] for r in rounds])[:simulations] for k in rounds[0][i]}
        for i in range(4)
    ]
    ranks, uniform, truth, variance = tables
    return Calibration(
        ranks=ranks,
        uniform=uniform,
        p_values={
            k: np.apply_along_axis(lambda v: kstest(v, "uniform").pvalue, 0, u)
            for k, u in uniform.items()
        },
        contraction={
            k: 1 - v.mean(0) / np.maximum(truth[k].var(0, ddof=1), 1e-300)
            for k, v in variance.items()
        },
        draws=draws,
    )


def coverage(
    model: Program,
    guide: Program,
    x: Data,
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    simulations: int = 1000,
    draws: int = 199,
    **options: Any,
) -> Coverage:
    r"""Coverage of the guide's central credible intervals on data simulated from the model.

    The interval of level c between order statistics of L draws, ends randomised so that an exact
    guide covers with probability c whatever L is; plain quantiles of L draws cover less.

    Args:
        model, guide, x, simulations, draws, **options: as for `sbc`.
        levels: nominal levels between 0 and 1.

    Raises:
        ValueError: as `sbc`, or if a level is not between 0 and 1.
    """
    result = sbc(model, guide, x, simulations=simulations, draws=draws, **options)
    return result.coverage(levels)


def calibration_of(subject: Subject) -> Calibration:
    """`sbc` on as many simulated data as asked for."""
    require_density(subject)
    effort = subject.effort
    few = tuple(part[: effort.simulations] for part in subject.few)

    def of_x(drawn: dict[str, Tensor]) -> tuple[Any, ...]:
        return drawn["x"].reshape(few[0].shape).to(few[0]), *few[1:]

    # pairs of the library observe x, and labels that evaluation does not hand out
    own = any(isinstance(module, LibraryPair) for module in subject.modules)
    return sbc(
        *subject.pair,
        few,
        simulations=effort.simulations,
        draws=199,
        seed=effort.seed,
        arguments=of_x if own else None,
    )


def _ranks(subject: Subject) -> dict[str, Estimate]:
    found = subject.once(calibration_of)
    simulated = f"{found.simulations} simulated data"
    values = {"all": Estimate(found.p_value, note=f"smallest, Bonferroni, {simulated}")}
    for name, p in found.p_values.items():
        count = np.size(p)
        note = f"smallest of {count}, Bonferroni" if count > 1 else "one test"
        values[name] = Estimate(min(1.0, float(np.min(p)) * count), note=note)
    return values


def _covered(subject: Subject) -> dict[str, Estimate]:
    found = subject.once(calibration_of)
    covered, values = found.coverage(), {}
    for i, level in enumerate(covered.levels):
        inside = np.concatenate([v[i].ravel() for v in covered.observed.values()])
        note = f"mean over {inside.size} coordinates, the error of one, {found.simulations} "
        error = float(covered.error[i])
        mean = float(inside.mean())
        values[f"{100 * level:g}"] = Estimate(mean, error, error, note=note + "simulated data")
    return values


METRICS = (
    Metric(
        "sbc",
        "Calibration of {}, KS test",
        P_VALUE,
        "small where q is not the posterior",
        "posterior",
        _ranks,
        label=lambda name: {JOINT: "log p(x, z)", "all": "everything ranked"}.get(name, name),
    ),
    Metric(
        "coverage",
        "Coverage of {} intervals",
        "share inside",
        "the nominal level if calibrated",
        "posterior",
        _covered,
        label=lambda level: f"{level} %",
    ),
)
