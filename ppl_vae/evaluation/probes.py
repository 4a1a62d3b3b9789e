"""How much of the labels can be read from the codes."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.evaluation.codes import codes_of, train_codes_of
from ppl_vae.evaluation.estimate import Estimate, share_of
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.programs import check_positive

__all__ = ["METRICS", "knn_probe", "linear_probe", "svm_probe"]

Array = NDArray[Any]


def linear_probe(
    train_codes: Tensor,
    train_labels: Tensor | None,
    test_codes: Tensor,
    test_labels: Tensor | None,
    regularization: float = 1.0,
    max_iter: int = 1000,
) -> Estimate:
    r"""Test accuracy of multinomial logistic regression on standardised codes.

    Args:
        train_codes: `(n, d)`, posterior means by custom.
        train_labels: `(n,)` class indices.
        test_codes: `(m, d)`.
        test_labels: `(m,)`.
        regularization: scikit-learn's C, the inverse weight of the squared norm.
        max_iter: steps of L-BFGS.

    Returns:
        The share of the test labels that is right, between 0 and 1, with its error over test data
        (Wilson's). The note has the share of the commonest class, which needs no codes.

    Raises:
        ValueError: for labels that are missing or do not match the codes.

    References:
        Alain and Bengio (2017), Understanding intermediate layers using linear classifier probes,
        arXiv:1610.01644.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = _checked(train_codes, train_labels, test_codes, test_labels)
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=regularization, max_iter=max_iter)
    )
    return _accuracy(probe, data, f"linear probe, C = {regularization}")


def knn_probe(
    train_codes: Tensor,
    train_labels: Tensor | None,
    test_codes: Tensor,
    test_labels: Tensor | None,
    neighbours: int = 10,
) -> Estimate:
    """Test accuracy of the vote of the nearest training codes, Euclidean; see `linear_probe`.

    Args:
        train_codes: `(n, d)`.
        train_labels: `(n,)`.
        test_codes: `(m, d)`.
        test_labels: `(m,)`.
        neighbours: how many vote.
    """
    from sklearn.neighbors import KNeighborsClassifier

    data = _checked(train_codes, train_labels, test_codes, test_labels)
    check_positive(neighbours=neighbours)
    if neighbours > len(data[0]):
        raise ValueError(
            f"neighbours is {neighbours}, but there are {len(data[0])} training codes"
        )
    return _accuracy(KNeighborsClassifier(neighbours), data, f"{neighbours} nearest neighbours")


def svm_probe(
    train_codes: Tensor,
    train_labels: Tensor | None,
    test_codes: Tensor,
    test_labels: Tensor | None,
    labels: int = 1000,
    folds: int = 5,
    seed: int = 0,
) -> Estimate:
    """Test accuracy of an RBF support vector machine that sees a few labels only.

    The labelled rows are drawn stratified by class; C in 1 ... 1000 and the kernel's gamma (times
    1/d) in 0.1 ... 3 are chosen by cross-validation on those rows alone, so that neither the other
    training labels nor the test set take part.

    Args:
        train_codes: `(n, d)`.
        train_labels: `(n,)`.
        test_codes: `(m, d)`.
        test_labels: `(m,)`.
        labels: how many labelled codes the machine may see.
        folds: of the cross-validation.
        seed: of the choice of rows and folds.

    Raises:
        ValueError: also for fewer training codes than `labels`.

    References:
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262, figure 3 E.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    train, target, test, truth = _checked(train_codes, train_labels, test_codes, test_labels)
    if not folds <= labels <= len(train):
        raise ValueError(
            f"{labels} labelled codes asked, {len(train)} training codes given, {folds} folds: "
            "folds <= labels <= codes is needed"
        )
    rows = _stratified(target, labels, np.random.default_rng(checked_seed(seed)))
    most = int(np.unique(target[rows], return_counts=True)[1].max())
    if most < folds:
        raise ValueError(
            f"of {labels} labelled codes no class has more than {most}: {folds} folds are too many"
        )
    grid = {
        "svc__C": [1, 10, 100, 1000],
        "svc__gamma": [g / train.shape[1] for g in (0.1, 0.3, 1, 3)],
    }
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC()),
        grid,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    )
    with warnings.catch_warnings():
        # A class with fewer rows than folds is legal here.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return _accuracy(
            search, (train[rows], target[rows], test, truth), f"RBF SVM on {labels} labels"
        )


def _stratified(target: Array, count: int, rng: np.random.Generator) -> Array:
    # Rows are taken class by class in proportion: sorted by class in random order, then spread.
    order = rng.permutation(len(target))
    order = order[np.argsort(target[order], kind="stable")]
    return order[((np.arange(count) + rng.random()) * len(order) / count).astype(int)]


def _checked(
    train_codes: Tensor,
    train_labels: Tensor | None,
    test_codes: Tensor,
    test_labels: Tensor | None,
) -> tuple[Array, Array, Array, Array]:
    found = []
    for which, codes, labels in (
        ("training", train_codes, train_labels),
        ("test", test_codes, test_labels),
    ):
        if labels is None:
            raise ValueError(f"a probe needs {which} labels: these data have none")
        if codes.dim() != 2 or len(codes) != len(labels) or not len(codes):
            raise ValueError(
                f"{which} codes {tuple(codes.shape)} and labels {tuple(labels.shape)}: (n, d) and "
                "(n,) are needed"
            )
        found += [codes.detach().double().cpu().numpy(), labels.detach().cpu().numpy()]
    if len(np.unique(found[1])) < 2:
        raise ValueError("a probe needs training labels of two classes or more")
    return found[0], found[1], found[2], found[3]


def _accuracy(model: Any, data: tuple[Array, Array, Array, Array], note: str) -> Estimate:
    from sklearn.exceptions import ConvergenceWarning

    train, target, test, truth = data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train, target)
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        note += ", not converged"
    right = float((model.predict(test) == truth).mean())
    values, counts = np.unique(target, return_counts=True)
    base = float((truth == values[counts.argmax()]).mean())
    return share_of(right, len(test), f"{note}; the commonest class alone: {base:.3g}")


class _Probed(NamedTuple):
    """Codes and classes to learn from, and those to tell."""

    train: Tensor
    classes: Tensor
    test: Tensor
    truth: Tensor


def _probed(subject: Subject) -> _Probed:
    if subject.data.test is None:
        raise ValueError("a probe needs held-out rows, and these data have none")
    (seen, classes), (told, truth) = subject.known("train"), subject.known("test")
    train, test = subject.once(train_codes_of).mean, subject.once(codes_of).mean
    return _Probed(train[seen], classes, test[told], truth)


def _knn(subject: Subject) -> Estimate:
    probed = subject.once(_probed)
    return knn_probe(*probed, neighbours=min(10, len(probed.train)))


def _svm(subject: Subject) -> Estimate:
    probed = subject.once(_probed)
    few = min(1000, len(probed.train))
    commonest = int(probed.classes.bincount().max())
    folds = max(2, min(5, commonest * few // len(probed.train)))
    return svm_probe(*probed, labels=few, folds=folds, seed=subject.effort.seed)


METRICS = (
    Metric(
        "probe_linear",
        "Linear probe",
        "share right",
        "",
        "labels",
        lambda s: linear_probe(*s.once(_probed)),
        when="fit",
    ),
    Metric("probe_knn", "Nearest neighbours", "share right", "", "labels", _knn),
    Metric("probe_svm", "SVM on few labels", "share right", "", "labels", _svm),
)
