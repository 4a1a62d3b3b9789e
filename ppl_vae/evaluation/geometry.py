"""The shape of the codes of a path of data."""

from ppl_vae.data.factors import FadingSquares
from ppl_vae.evaluation.codes import posterior_codes
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Inapplicable, Metric, Subject
from ppl_vae.evaluation.programs import Data, Program

__all__ = ["METRICS", "path_length"]


def path_length(
    model: Program, guide: Program, path: Data, block: int | None = 1024, plate: str | None = None
) -> Estimate:
    r"""The length of the curve that the posterior means draw along a path of data.

    $$\sum_t \lVert E[z | x_{t+1}] - E[z | x_t] \rVert_2$$

    in units of the code. A deterministic encoder that must fill a latent space of more dimensions
    than the data have folds the path into it, and the length grows with how well it matches the
    prior; a random encoder need not. Take a path fine enough that halving the step does not
    change the value, from below by the triangle inequality.

    Args:
        model: the generative program.
        guide: the encoder program.
        path: data in order, for example `FadingSquares().path()`.
        block: rows held at once.
        plate: the data plate's name, where the pair leaves a choice.

    References:
        Rubenstein, Schölkopf and Tolstikhin (2018), On the latent space of Wasserstein
        auto-encoders, arXiv:1802.03761.
    """
    if len(path[0] if isinstance(path, tuple) else path) < 2:
        raise ValueError("a path needs two data or more")
    mean = posterior_codes(model, guide, path, block=block, plate=plate).mean.double()
    steps = (mean[1:] - mean[:-1]).norm(dim=1)
    return Estimate(float(steps.sum()), 0.0, bound="lower", note=f"path of {len(mean)} data")


def _along(subject: Subject) -> Estimate:
    if not isinstance(subject.data, FadingSquares):
        raise Inapplicable("a path of data is needed, as FadingSquares has")
    return path_length(*subject.pair, subject.data.path().to(subject.x))


METRICS = (
    Metric(
        "path_length",
        "Length of the codes of a path",
        "units of z",
        "of data in order; longer the more it is folded",
        "factors",
        _along,
    ),
)
