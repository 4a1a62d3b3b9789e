"""How well single code dimensions stand for single factors of the data."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.factors import FactorData
from ppl_vae.data.tensors import as_tensor
from ppl_vae.evaluation.codes import posterior_codes
from ppl_vae.evaluation.estimate import Estimate, mean_of
from ppl_vae.evaluation.factor_vae import factor_vae_score
from ppl_vae.evaluation.metric import Inapplicable, Metric, Subject
from ppl_vae.evaluation.programs import Program, check_positive

__all__ = ["METRICS", "dci", "disentanglement", "factor_vae_score", "mig", "sap"]

Array = NDArray[Any]


def disentanglement(
    model: Program,
    guide: Program,
    data: FactorData,
    num_data: int = 10_000,
    seed: int = 0,
    block: int = 1024,
    plate: str | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Estimate]:
    """All measures on posterior means of one sample of factor data.

    Args:
        model: the generative program.
        guide: the encoder program.
        data: for example `Sprites()`.
        num_data: images for MIG, SAP and DCI.
        seed: of the images and of the classifiers.
        block: images held at once.
        plate: the data plate's name, where the pair leaves a choice.
        device: where the programs want their data.

    Returns:
        Under `"mig"`, `"sap"`, `"dci_disentanglement"`, `"dci_completeness"`,
        `"dci_informativeness"` and `"factor_vae"`, all between 0 and 1 and better when larger.
    """
    check_positive(num_data=num_data, block=block)
    generator = torch.Generator().manual_seed(checked_seed(seed))

    def encode(x: Tensor) -> Tensor:
        return posterior_codes(model, guide, x.to(device), plate=plate).mean.cpu()

    codes, factors = [], []
    for start in range(0, num_data, block):
        x, f = data.sample(min(block, num_data - start), generator)
        codes.append(encode(x))
        factors.append(f)
    mean, found = torch.cat(codes), torch.cat(factors)
    return {
        "mig": mig(mean, found),
        "sap": sap(mean, found, seed=seed),
        **{f"dci_{k}": v for k, v in dci(mean, found, seed=seed).items()},
        "factor_vae": factor_vae_score(encode, data, seed=seed, block=block),
    }


def mig(codes: Tensor, factors: Tensor, bins: int = 20, groups: int = 10) -> Estimate:
    r"""The mutual information gap.

    $$\frac{1}{K} \sum_k \frac{I(z_{j_1}; v_k) - I(z_{j_2}; v_k)}{H(v_k)}$$

    with $j_1, j_2$ the two code dimensions that tell most about factor k, by histogram of equal
    bins. The histograms' bias, (bins - 1)(levels - 1) / 2n, is about the same in both. Factors
    that do not vary are left out. The error is a jackknife over random groups of rows; None where
    the factors vary by one group alone.

    Args:
        codes: `(n, d)`, d of 2 or more.
        factors: `(n, K)`, see `sap`.
        bins: of each code dimension.
        groups: of the jackknife.

    Raises:
        ValueError: as in `sap`.

    References:
        Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
        autoencoders, arXiv:1802.04942.
    """
    check_positive(bins=bins)
    z, v = _checked(codes, factors)
    groups = min(groups, len(z))
    if groups < 2:
        raise ValueError(f"groups is {groups}: a jackknife needs 2 groups and 2 rows or more")
    binned = np.stack([_binned(column, bins) for column in z.T], 1)

    def gap(rows: Array) -> float:
        total = []
        for factor in v[rows].T:
            if not _varies(factor):
                continue
            found = [_information(column, factor) for column in binned[rows].T]
            first, second = sorted(found)[-1:-3:-1]
            total.append((first - second) / _information(factor, factor))
        return float(np.mean(total)) if total else math.nan

    # In random order, as rows of a grid come with a factor's levels in turn.
    part = np.random.default_rng(0).permutation(len(z)) % groups
    left_out = np.array([gap(part != g) for g in range(groups)])
    square = (groups - 1) / groups * float(((left_out - left_out.mean()) ** 2).sum())
    error = None if math.isnan(square) else math.sqrt(square)
    return Estimate(gap(np.ones(len(z), dtype=bool)), error, error)


def sap(codes: Tensor, factors: Tensor, seed: int = 0) -> Estimate:
    r"""The separated attribute predictability: the gap of the two best one-dimensional predictors.

    For each factor and code dimension a linear support vector machine on that dimension alone is
    fitted to half of the data and scored, by accuracy, on the rest. Factors that do not vary in
    the half that is fitted are left out.

    Args:
        codes: `(n, d)`, d of 2 or more.
        factors: `(n, K)` of any type; the distinct values of a column are its levels.
        seed: of the split and the machines.

    Raises:
        ValueError: for shapes that do not match, codes or factors that are not finite, a factor
            of fractions with more values than half of the rows (continuous: to be binned first),
            or no factor that varies.

    References:
        Kumar, Sattigeri and Balakrishnan (2018), Variational inference of disentangled latent
        concepts from unlabeled observations, arXiv:1711.00848.
    """
    from sklearn.svm import LinearSVC

    z, v = _checked(codes, factors)
    train, test, v = _halves(v, seed)
    scale = z[train].std(0)
    z = (z - z[train].mean(0)) / np.where(scale > 0, scale, 1)
    gaps = []
    for factor in v.T:
        right = []
        for column in z.T:
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            machine.fit(column[train, None], factor[train])
            right.append(machine.predict(column[test, None]) == factor[test])
        first, second = sorted(right, key=lambda r: float(r.mean()))[-1:-3:-1]
        gaps.append(first.astype(float) - second.astype(float))
    return _mean_of_rows(gaps)


def dci(
    codes: Tensor, factors: Tensor, trees: int = 50, depth: int = 12, seed: int = 0
) -> dict[str, Estimate]:
    r"""Disentanglement, completeness and informativeness.

    Random forests predict each factor from all codes; from their importances $R_{jk}$ (dimension
    j for factor k), with entropies in base K and d,

    $$D = \sum_j \rho_j (1 - H(R_{j\cdot})), \qquad C = \sum_k \rho_k (1 - H(R_{\cdot k})),$$

    $\rho$ the share of all importance; both are 0 where no code has any. Informativeness is the
    mean test accuracy. One run does not tell the error of D and C. Factors that do not vary in
    the half of the rows that is fitted are left out, and out of K.

    Args:
        codes: `(n, d)`, d of 2 or more.
        factors: `(n, K)`, see `sap`.
        trees: in each forest.
        depth: of the trees, at most.
        seed: of the split and the forests.

    Raises:
        ValueError: as in `sap`.

    References:
        Eastwood and Williams (2018), A framework for the quantitative evaluation of disentangled
        representations, ICLR.
    """
    from sklearn.ensemble import RandomForestClassifier

    z, v = _checked(codes, factors)
    train, test, v = _halves(v, seed)
    importance, right = [], []
    for factor in v.T:
        # Trees that may always choose among all codes give their importance to the best one.
        forest = RandomForestClassifier(
            trees, max_depth=depth, max_features=None, random_state=seed
        )
        forest.fit(z[train], factor[train])
        importance.append(forest.feature_importances_)
        right.append((forest.predict(z[test]) == factor[test]).astype(float))
    r = np.stack(importance, 1)
    return {
        "disentanglement": Estimate(_concentration(r)),
        "completeness": Estimate(_concentration(r.T)),
        "informativeness": _mean_of_rows(right),
    }


def _checked(codes: Tensor, factors: Tensor) -> tuple[Array, Array]:
    """Codes `(n, d)`, and the indices of the levels of the factors that vary, `(n, K)`."""
    codes, factors = as_tensor(codes, "codes"), as_tensor(factors, "factors")
    if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors):
        raise ValueError(
            f"codes {tuple(codes.shape)} and factors {tuple(factors.shape)}: (n, d) and (n, K) "
            "are needed"
        )
    if codes.shape[1] < 2:
        raise ValueError("a gap between code dimensions needs two of them or more")
    for name, tensor in (("codes", codes), ("factors", factors)):
        if not tensor.isfinite().all():
            raise ValueError(f"the {name} hold values that are not finite")
    values = (factors.double() if factors.is_floating_point() else factors).cpu().numpy()
    levels = []
    for k, factor in enumerate(values.T):
        distinct, index = np.unique(factor, return_inverse=True)
        # The entropy of a constant is a rounding residue and not 0: values are counted instead.
        if len(distinct) < 2:
            continue
        if 2 * len(distinct) > len(factor) and (distinct != np.floor(distinct)).any():
            raise ValueError(
                f"factor {k} is continuous, of {len(distinct)} values in {len(factor)} rows: a "
                "factor needs levels, so bin it first"
            )
        levels.append(index)
    if not levels:
        raise ValueError(f"no factor of {factors.shape[1]} varies in the {len(factors)} rows")
    return codes.detach().double().cpu().numpy(), np.stack(levels, 1)


def _varies(factor: Array) -> bool:
    return bool((factor != factor[0]).any())


def _halves(factors: Array, seed: int) -> tuple[Array, Array, Array]:
    """The rows to fit and to score, and the factors that vary in those to fit."""
    n = len(factors)
    if n < 4:
        raise ValueError(f"{n} rows: 4 or more are needed, half to fit and half to score")
    order = np.random.default_rng(checked_seed(seed)).permutation(n)
    train, test = order[: n // 2], order[n // 2 :]
    varying = [k for k, factor in enumerate(factors[train].T) if _varies(factor)]
    if not varying:
        raise ValueError(
            "no factor varies in the half of the rows that is fitted: more are needed"
        )
    return train, test, factors[:, varying]


def _mean_of_rows(scores: list[Array]) -> Estimate:
    """The mean over factors and rows of scores `(K, n)`; rows are independent, factors not."""
    return mean_of(torch.as_tensor(np.mean(scores, 0)))


def _binned(column: Array, bins: int) -> Array:
    """The index of each value's bin, of equal bins from least to largest."""
    least, largest = column.min(), column.max()
    share = (column - least) / (largest - least if largest > least else 1)
    return np.minimum((share * bins).astype(int), bins - 1)


def _information(a: Array, b: Array) -> float:
    """Mutual information of two columns of small integers, in nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def _concentration(importance: Array) -> float:
    """One less the entropy of each row, weighted by the row's share of all importance."""
    rows = importance.sum(1)
    share = importance / np.where(rows > 0, rows, 1)[:, None]
    logs = np.log(np.where(share > 0, share, 1))
    entropy = -(share * logs).sum(1) / math.log(max(importance.shape[1], 2))
    total = float(rows.sum())
    return float(((1 - entropy) * rows).sum()) / total if total else 0.0


def _all(subject: Subject) -> dict[str, Estimate]:
    data = subject.data
    if not isinstance(data, FactorData):
        raise Inapplicable("data of known factors are needed, as Sprites has")
    if len(data.levels) < 2:
        raise Inapplicable("one factor alone cannot be distinguished from others")
    effort, device = subject.effort, subject.x.device
    return disentanglement(*subject.pair, data, 10 * effort.rows, effort.seed, device=device)


def _metric(name: str, title: str) -> Metric:
    reading = "0 to 1, larger is better"
    return Metric(name, title, "", reading, "factors", lambda s: s.once(_all)[name])


METRICS = (
    _metric("mig", "Mutual information gap"),
    _metric("sap", "Separated attribute predictability"),
    _metric("dci_disentanglement", "DCI, disentanglement"),
    _metric("dci_completeness", "DCI, completeness"),
    _metric("dci_informativeness", "DCI, informativeness"),
    _metric("factor_vae", "FactorVAE score"),
)
