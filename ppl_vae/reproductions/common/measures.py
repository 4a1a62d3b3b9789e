"""What is measured of a trained pair, each by more than the divergence it was trained with."""

import base64
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.data.dataset import Dataset
from ppl_vae.evaluation.classifier import Classifier
from ppl_vae.reproductions.common.kept import Measures
from ppl_vae.reproductions.common.training import binarised

__all__ = ["classes", "classifier", "fitted", "match", "packed", "probe", "quality", "unpacked"]


def classifier(data: Dataset, folder: Path | None = None, steps: int = 1500) -> Classifier:
    """A classifier of a data set, whose features the FID takes and whose classes are counted."""
    assert data.test is not None
    labels = data.train_labels, data.test_labels
    return ev.train_classifier(
        data.train, labels[0], data.test, labels[1], cache=folder, steps=steps
    )


def match(pair: Any, x: Tensor, directions: int = 200) -> Measures:
    """How well q(z) matches a standard normal prior, by four measures.

    Returns:
        The log-determinant of the aggregate covariance over d, the unbiased squared MMD over all
        rows with its error, and the squared sliced 2-Wasserstein distance from the prior of one
        draw for each row, in units of the prior's variance; see `sliced`.
    """
    codes = ev.posterior_codes(pair.model, pair.guide, x)
    log_det = ev.log_det(codes.mean, codes.variance).value
    found = ev.full_mmd(pair.model, pair.guide, x).u
    return {
        "log-det/d": log_det,
        "log-det": log_det * codes.mean.shape[1],
        "MMD^2": found.value,
        "MMD^2 error": found.standard_error,
        "sliced W": sliced(codes.sample, directions),
    }


def sliced(codes: Tensor, directions: int = 200) -> float:
    """The squared sliced 2-Wasserstein distance of codes `(n, d)` from N(0, I).

    Along each of some random directions the codes in order are compared with the normal's
    quantiles, and the squared distances averaged: a standard deviation of s gives (s - 1)^2, a
    mean of m gives |m|^2 / d.
    """
    generator = torch.Generator().manual_seed(0)
    d = codes.shape[1]
    way = torch.randn(d, directions, generator=generator)
    along = (codes @ (way / way.norm(dim=0))).sort(0).values.double()
    share = (torch.arange(len(codes)).double() + 0.5) / len(codes)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(share)
    return float((along - normal[:, None]).square().mean())


def fitted(pair: Any, x: Tensor, draws: int = 100, steps: int = 150) -> Measures:
    """The NLL by the better proposal, by row too, and what the encoder's own draws say, in nats,
    each with its effective size and k-hat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sizes and k-hat are in the table
        found = ev.nll(pair.model, pair.guide, x, draws, steps=steps)
    assert found.own is not None
    return {
        "NLL": found.value,
        "NLL error": found.data_error,
        "NLL by row": [round(value, 4) for value in found.rows.tolist()],
        "size": found.size,
        "k-hat": found.k,
        "own NLL": found.own.value,
        "own size": found.sizes["own"],
        "own k-hat": found.khats["own"],
    }


def probe(pair: Any, data: Dataset, labels: int = 1000, binarise: bool = False) -> Measures:
    """The accuracy of an SVM on posterior means of so many labelled rows, over held-out rows."""
    assert data.test is not None
    train, test = data.train[:labels], data.test
    if binarise:
        train, test = binarised(train), binarised(test)
    means = [ev.posterior_codes(pair.model, pair.guide, x).mean for x in (train, test)]
    assert data.train_labels is not None
    found = ev.svm_probe(means[0], data.train_labels[:labels], means[1], data.test_labels)
    return {"SVM": found.value, "SVM error": found.data_error}


def classes(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """KL of the classifier's histogram over samples and the classes' frequencies, in nats."""
    share, known = (
        torch.bincount(y, minlength=net.classes).double() for y in (net.predict(images), labels)
    )
    share, known = share / share.sum(), known / known.sum()
    return float(torch.special.xlogy(share, share / known).sum())


def quality(pair: Any, x: Tensor, labels: Tensor, net: Classifier, count: int = 1000) -> Measures:
    """The FID of samples in the classifier's features, and the divergence of their classes."""
    pyro.set_rng_seed(0)
    images = ev.generate(pair.model, pair.guide, x, count)
    return {"FID": ev.fid(x, images, net).value, "classes": classes(net, images, labels)}


def packed(x: Tensor) -> dict[str, Any]:
    """A tensor as text, in half precision, for pictures that are drawn later."""
    content = x.detach().cpu().half().contiguous().numpy()
    return {"shape": list(x.shape), "half": base64.b64encode(content.tobytes()).decode()}


def unpacked(found: dict[str, Any]) -> Tensor:
    """The tensor of `packed`."""
    content = np.frombuffer(base64.b64decode(found["half"]), dtype=np.float16)
    return torch.from_numpy(content.astype(np.float32)).reshape(found["shape"])
