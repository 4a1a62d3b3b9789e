"""What pictures read of the results they show."""

from typing import Protocol

import numpy as np

__all__ = ["Comparison", "Epochs", "Gaps", "Intervals", "KHats", "Ranks", "Replicates"]


class Epochs(Protocol):
    """Columns of numbers, a row for each epoch of a training."""

    @property
    def names(self) -> list[str]: ...
    def __getitem__(self, name: str) -> list[float]: ...


class KHats(Protocol):
    """Pareto k-hat of each datum, as `pareto_k` finds it."""

    @property
    def k(self) -> np.ndarray: ...
    @property
    def exact(self) -> np.ndarray: ...
    @property
    def draws(self) -> int: ...
    @property
    def threshold(self) -> float: ...
    @property
    def usable(self) -> float: ...


class Ranks(Protocol):
    """Ranks of simulation-based calibration, as `sbc` finds them."""

    @property
    def uniform(self) -> dict[str, np.ndarray]: ...
    @property
    def p_values(self) -> dict[str, np.ndarray]: ...
    @property
    def p_value(self) -> float: ...
    @property
    def simulations(self) -> int: ...
    @property
    def draws(self) -> int: ...


class Intervals(Protocol):
    """Coverage of central intervals, as `coverage` finds it."""

    @property
    def levels(self) -> np.ndarray: ...
    @property
    def observed(self) -> dict[str, np.ndarray]: ...
    @property
    def simulations(self) -> int: ...


class Replicates(Protocol):
    """Statistics of data and of replicated data sets, as `predictive_check` computes them."""

    @property
    def site(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def observed(self) -> dict[str, float]: ...
    @property
    def replicated(self) -> dict[str, np.ndarray]: ...
    @property
    def p_values(self) -> dict[str, float]: ...


class Gaps(Protocol):
    """Nats that a guide loses on each datum."""

    @property
    def inference(self) -> np.ndarray: ...
    @property
    def approximation(self) -> np.ndarray | None: ...
    @property
    def amortisation(self) -> np.ndarray | None: ...
    @property
    def evidence_error(self) -> np.ndarray: ...
    @property
    def elbo_error(self) -> np.ndarray: ...


class Comparison(Protocol):
    """A guide's draws and those of NUTS, as `against_nuts` makes them."""

    @property
    def rows(self) -> np.ndarray: ...
    @property
    def guide(self) -> dict[str, np.ndarray]: ...
    @property
    def nuts(self) -> dict[str, np.ndarray]: ...
    @property
    def wasserstein(self) -> dict[str, np.ndarray]: ...
    @property
    def gaps(self) -> Gaps | None: ...
