"""What the metrics of a run are called, their units, and how to read them."""

from typing import NamedTuple

__all__ = ["About", "about"]


class About(NamedTuple):
    """One metric for a reader.

    Attributes:
        heading: of the block it stands in.
        title: its name.
        unit: of the value and its errors; empty for a pure number.
        reading: what a good value is, or what it is a value of.
    """

    heading: str
    title: str
    unit: str
    reading: str = ""


_FIT, _INFORMATION, _MATCH, _LABELS, _DATA, _POSTERIOR = (
    "Fit",
    "Information in the code",
    "Aggregate posterior against the prior",
    "Labels read from posterior means",
    "Data and samples",
    "Posterior diagnostics",
)
_NATS = "nats per datum"

_METRICS = {
    "elbo": About(_FIT, "ELBO", _NATS, "minus rate minus distortion"),
    "log_likelihood": About(_FIT, "Log-likelihood, importance sampling", _NATS, "log p(x)"),
    "annealed_log_likelihood": About(_FIT, "Log-likelihood, annealing", _NATS, "log p(x)"),
    "distortion": About(_FIT, "Distortion", _NATS, "−E log p(x|z)"),
    "rate": About(_FIT, "Rate", _NATS, "KL(q(z|x) ‖ p(z)); 0 where the code says nothing"),
    "information_lower": About(
        _INFORMATION, "Mutual information from below", "nats", "I(x; z), at most log M"
    ),
    "information_upper": About(_INFORMATION, "Mutual information from above", "nats", "I(x; z)"),
    "surgery/mutual_information": About(
        _INFORMATION, "Rate's share: index-code information", "nats", "of the rows themselves"
    ),
    "surgery/total_correlation": About(
        _INFORMATION, "Rate's share: total correlation", "nats", "0 for independent dimensions"
    ),
    "surgery/dimension_wise": About(
        _INFORMATION, "Rate's share: dimension-wise KL", "nats", "0 where marginals match"
    ),
    "surgery/marginal_kl": About(
        _INFORMATION, "KL(q(z) ‖ p(z))", "nats", "total correlation and dimension-wise KL"
    ),
    "active_units": About(
        _INFORMATION, "Active units", "dimensions", "variance of the posterior mean above 0.01"
    ),
    "mmd_u": About(_MATCH, "MMD², U-statistic", "", "unbiased; 0 where they match"),
    "mmd_v": About(_MATCH, "MMD², V-statistic", "", "biased upward by about 1/n"),
    "log_det": About(
        _MATCH, "log det of the covariance, over d", "nats per dimension", "0 as for the prior"
    ),
    "probe_linear": About(_LABELS, "Linear probe", "share right"),
    "probe_knn": About(_LABELS, "Nearest neighbours", "share right"),
    "probe_svm": About(_LABELS, "SVM on few labels", "share right"),
    "accuracy": About(_LABELS, "The model's own classifier", "share right"),
    "reconstruction_error": About(
        _DATA, "Reconstruction error", "squared units of x", "per element of x"
    ),
    "sharpness": About(
        _DATA, "Sharpness of samples", "squared units of x", "beside that of the data"
    ),
    "sharpness_data": About(_DATA, "Sharpness of the data", "squared units of x"),
    "class_divergence": About(
        _DATA, "Class divergence of samples", "nats", "0 where classes are as frequent as in data"
    ),
    "khat_usable": About(
        _POSTERIOR, "Usable importance proposals", "share of data", "Pareto k̂ under its threshold"
    ),
    "khat_median": About(_POSTERIOR, "Pareto k̂, median", "", "up to 0.7 is usable"),
}
_FAMILIES = {
    "column": About(_DATA, "{}", "", "reconstruction of one column"),
    "sbc": About(
        _POSTERIOR, "Calibration of {}, KS test", "p-value", "small where q is not the posterior"
    ),
    "coverage": About(
        _POSTERIOR, "Coverage of {} intervals", "share inside", "the nominal level if calibrated"
    ),
}
_COLUMN = {
    "rmse": ("root mean squared error", "units of the column"),
    "explained": ("share of variance", "share explained"),
    "deviance": ("Poisson deviance", "nats"),
    "accuracy": ("accuracy", "share right"),
    "log_loss": ("log loss", "nats"),
}
_RANKED = {"log_joint": "log p(x, z)", "all": "everything ranked"}


def about(name: str) -> About:
    """What a metric is; for a name that is not known, the name itself.

    Example:
        >>> about("coverage/90").title
        'Coverage of 90 % intervals'
    """
    if name in _METRICS:
        return _METRICS[name]
    family, _, member = name.partition("/")
    if family not in _FAMILIES:
        return About("Other", name, "")
    found = _FAMILIES[family]
    if family == "column":
        column, _, error = member.rpartition("/")
        title, unit = _COLUMN.get(error, (error, ""))
        return found._replace(title=found.title.format(f"{column}, {title}"), unit=unit)
    label = f"{member} %" if family == "coverage" else _RANKED.get(member, member)
    return found._replace(title=found.title.format(label))


def order(name: str) -> tuple[int, str]:
    """A key that sorts metrics as they are shown."""
    known = [*_METRICS, *_FAMILIES]
    family = name if name in _METRICS else name.partition("/")[0]
    return known.index(family) if family in known else len(known), name
