"""Fréchet and kernel distances between features of real and generated images."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.evaluation.classifier import Classifier, classifier_of
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.programs import check_positive
from ppl_vae.evaluation.samples import generate
from ppl_vae.evaluation.ustatistic import MMDTerms, pair_sums

__all__ = ["METRICS", "fid", "kid"]

Features = nn.Module | Callable[[Tensor], Tensor]


class _Network(nn.Module):
    """What torchmetrics wants of a feature network: a module with `num_features`."""

    def __init__(self, network: Features, images: Tensor):
        super().__init__()
        self.inner = network
        with torch.no_grad():
            self.num_features = self(images[:2]).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        net = self.inner
        found = net.features(images) if isinstance(net, Classifier) else net(images)
        if found.dim() != 2:
            raise ValueError(
                f"the feature network gives {tuple(found.shape)}: (n, features) is needed"
            )
        return found


def fid(real: Tensor, generated: Tensor, network: Features, block: int = 512) -> Estimate:
    r"""The Fréchet distance of Gaussians fitted to features, squared feature units.

    $$\lVert \mu - \mu' \rVert^2 + \mathrm{tr}(\Sigma + \Sigma' - 2 (\Sigma \Sigma')^{1/2})$$

    It is biased upward, the more so the fewer images and the more features; compare values of
    equal numbers of images and the same network only. One run does not tell its error.

    Args:
        real: images `(n, *size)`, of any shape the network reads.
        generated: images `(m, *size)`.
        network: a module or function from images to `(n, features)`, or a `Classifier`, whose
            last hidden layer is taken. The usual FID is that of Inception-v3 features; a network
            of your own gives numbers comparable among themselves.
        block: images held at once.

    Raises:
        ImportError: without torchmetrics (`pip install ppl-vae[metrics]`).
        ValueError: for fewer than two images on a side.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter (2017), GANs trained by a two
        time-scale update rule, arXiv:1706.08500.
    """
    metric = _metric("fid", real, generated, network, block)
    note = f"{len(real)} real and {len(generated)} generated images, biased upward"
    return Estimate(float(metric.compute()), note=note)


def kid(
    real: Tensor,
    generated: Tensor,
    network: Features,
    subsets: int = 100,
    subset_size: int = 1000,
    block: int = 512,
) -> Estimate:
    r"""The squared MMD of features under the kernel $(f^T f' / F + 1)^3$, unbiased.

    The mean over random subsets of the images. All subsets of n images together are the
    U-statistic U of the n, so subsets of s that overlap say less of the error than their number:
    the variance is

    $$V[U_n] + \frac{V[U_s] - V[U_n]}{\mathrm{subsets}},$$

    both from the two orders of U's Hoeffding decomposition over all pairs of images, so it holds
    where the laws are equal, where they differ, and where each subset is all the images.

    Args:
        real: images `(n, *size)`.
        generated: images `(m, *size)`.
        network: see `fid`.
        subsets: how many subsets.
        subset_size: images of each kind in a subset.
        block: images held at once.

    Raises:
        ImportError: without torchmetrics (`pip install ppl-vae[metrics]`).
        ValueError: for fewer images than `subset_size`, or that below 2.

    References:
        Bińkowski, Sutherland, Arbel and Gretton (2018), Demystifying MMD GANs, arXiv:1801.01401.
    """
    check_positive(subsets=subsets, block=block)
    if subset_size < 2:
        raise ValueError(f"subset_size is {subset_size}: 2 or more are needed")
    if min(len(real), len(generated)) < subset_size:
        raise ValueError(
            f"subset_size is {subset_size}, but there are {len(real)} real and {len(generated)} "
            "generated images"
        )
    metric = _metric(
        "kid",
        real,
        generated,
        network,
        block,
        subsets=subsets,
        subset_size=subset_size,
    )
    mean, _ = metric.compute()
    error = _kid_variance(
        torch.cat(metric.real_features), torch.cat(metric.fake_features), subsets, subset_size
    )
    note = f"{subsets} subsets of {subset_size}"
    return Estimate(float(mean), error**0.5, error**0.5, note=note)


def _kid_variance(real: Tensor, generated: Tensor, subsets: int, size: int) -> float:
    # The variance is a small difference of large sums, and needs the digits.
    a, b = real.double(), generated.double()

    def kernel(products: Tensor) -> Tensor:
        return (products / a.shape[1] + 1).pow(3)

    terms = MMDTerms(
        pair_sums(kernel, a, a, 1024, same=True),
        pair_sums(kernel, a, b, 1024, same=False),
        pair_sums(kernel, b, b, 1024, same=True),
    )
    whole = terms.variance()
    return whole + max(terms.variance(size, size) - whole, 0.0) / subsets


def _metric(
    name: str, real: Tensor, generated: Tensor, network: Features, block: int, **options: Any
) -> Any:
    if min(len(real), len(generated)) < 2:
        raise ValueError("feature distances need two images or more on each side")
    try:
        # By module: the package lists these two only besides its own Inception network.
        metrics = import_module(f"torchmetrics.image.{name}")
    except ImportError:
        raise ImportError(
            "FID and KID need torchmetrics: pip install 'ppl-vae[metrics]'"
        ) from None
    kind = {"fid": "FrechetInceptionDistance", "kid": "KernelInceptionDistance"}[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features.*")
        metric = getattr(metrics, kind)(feature=_Network(network, real), **options)
    metric = metric.to(real.device)
    with torch.no_grad():
        for images, is_real in ((real, True), (generated, False)):
            for batch in images.split(block):
                metric.update(batch, real=is_real)
    return metric


_FEATURES = "by features of a classifier of these data"


def _pictures(subject: Subject) -> tuple[Tensor, Tensor, Classifier]:
    """Data and equally many samples of the model, 10,000 at most, and who looks at them."""
    net = subject.once(classifier_of)
    x = subject.x[:10_000]
    return x, generate(*subject.pair, subject.args, len(x)), net


def _kid(subject: Subject) -> Estimate:
    x, samples, net = subject.once(_pictures)
    return kid(x, samples, net, subset_size=min(1000, len(x)))


METRICS = (
    Metric(
        "fid",
        "Fréchet distance of samples",
        "squared features",
        _FEATURES,
        "samples",
        lambda s: fid(*s.once(_pictures)),
        when="asked",
    ),
    Metric(
        "kid",
        "Kernel distance of samples",
        "squared features",
        f"unbiased, {_FEATURES}",
        "samples",
        _kid,
        when="asked",
    ),
)
