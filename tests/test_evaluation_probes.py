"""Probes on codes whose best accuracy is known."""

import math
import sys

import numpy as np
import pytest
import torch

from ppl_vae import evaluation as ev


def blobs(n, seed, distance=3.0):
    """Two unit Gaussians: the best accuracy is Phi(distance / 2)."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=g)
    codes = torch.randn(n, 3, generator=g)
    codes[:, 0] += distance * labels
    return codes * torch.tensor([100.0, 1.0, 0.01]), labels


BEST = 0.5 * (1 + math.erf(1.5 / math.sqrt(2)))


def test_linear_and_knn_probes():
    train, test = blobs(2000, 0), blobs(4000, 1)
    found = ev.linear_probe(*train, *test)
    assert abs(found.value - BEST) < 4.5 * found.data_error
    assert found.data_error == pytest.approx(math.sqrt(BEST * (1 - BEST) / 4000), rel=0.1)
    # Nearest neighbours take distances as they are: the first column rules.
    near = ev.knn_probe(*train, *test)
    assert BEST - 0.03 < near.value < BEST + 4.5 * near.data_error


def test_svm_sees_only_its_labels():
    (codes, labels), test = blobs(3000, 0), blobs(4000, 1)
    found = ev.svm_probe(codes, labels, *test, labels=100)
    assert "100 labels" in found.note
    assert BEST - 0.04 < found.value < BEST + 4.5 * found.data_error
    again = ev.svm_probe(codes, labels, *test, labels=100)
    assert again.value == found.value
    other = ev.svm_probe(codes, labels, *test, labels=100, seed=5)
    assert other.value != found.value or abs(other.value - BEST) < 0.04
    # Labels that are no part of the hundred do not matter: chosen rows are told by class alone.
    with pytest.raises(ValueError, match="3001 labelled codes asked, 3000"):
        ev.svm_probe(codes, labels, *test, labels=3001)


def test_the_svm_sees_no_other_row():
    """Codes of rows that are not chosen cannot be read at all; test codes only tell the future."""
    probes = sys.modules[ev.svm_probe.__module__]
    g = torch.Generator().manual_seed(0)
    codes, labels = torch.randn(300, 3, generator=g), torch.randint(2, (300,), generator=g)
    test, truth = torch.randn(400, 3, generator=g), torch.randint(2, (400,), generator=g)
    rows = probes._stratified(labels.numpy(), 60, np.random.default_rng(0))
    hidden = torch.full_like(codes, math.nan)
    hidden[rows] = codes[rows]
    found = ev.svm_probe(hidden, labels, test, truth, labels=60)
    # Noise: a machine that had seen the test rows would know them by heart.
    assert abs(found.value - 0.5) < 4.5 * math.sqrt(0.25 / 400)


def test_the_linear_probe_is_free_of_scales():
    """The penalty on weights would leave a column of small numbers unread."""
    (codes, labels), (test, truth) = blobs(2000, 0), blobs(4000, 1)
    scales = torch.tensor([1e-5, 1.0, 1e4])
    found = ev.linear_probe(codes * scales, labels, test * scales, truth)
    assert found.value == ev.linear_probe(codes, labels, test, truth).value
    assert abs(found.value - BEST) < 4.5 * found.data_error


def test_labelled_rows_are_stratified():
    from ppl_vae.evaluation.probes import _stratified

    target = torch.arange(10).repeat_interleave(torch.arange(1, 11) * 30).numpy()
    rows = _stratified(target, 165, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 165
    counts = np.bincount(target[rows], minlength=10)
    assert abs(counts - np.arange(1, 11) * 3).max() <= 1


def test_missing_labels():
    codes, labels = blobs(50, 0)
    for probe in (ev.linear_probe, ev.knn_probe, ev.svm_probe):
        with pytest.raises(ValueError, match="a probe needs training labels: these data have no"):
            probe(codes, None, codes, labels)
        with pytest.raises(ValueError, match="a probe needs test labels"):
            probe(codes, labels, codes, None)
        with pytest.raises(ValueError, match="two classes"):
            probe(codes, labels * 0, codes, labels)
    with pytest.raises(ValueError, match=r"\(n, d\) and \(n,\) are needed"):
        ev.linear_probe(codes, labels[:3], codes, labels)
    with pytest.raises(ValueError, match="neighbours is 51"):
        ev.knn_probe(codes, labels, codes, labels, neighbours=51)
