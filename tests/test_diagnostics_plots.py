"""The pictures: what they show is labelled and drawn from the results."""

import dataclasses

import numpy as np
import pytest
import torch
from ppca import PPCA

from ppl_vae import plots
from ppl_vae.diagnostics import against_nuts, coverage, pareto_k, predictive_check, sbc


@pytest.fixture(scope="module")
def narrow():
    p = PPCA.make(dim=3, features=5)
    p = dataclasses.replace(p, covariance=p.covariance * 0.35)
    return p, p.sample(80)


def test_pareto_k(narrow, tmp_path):
    p, x = narrow
    result = pareto_k(p.model, p.guide, x, draws=200, seed=0)
    figure = plots.plot_pareto_k(result)
    (ax,) = figure.axes
    assert f"{result.usable:.0%}" in ax.get_title()
    assert ax.get_ylabel() == "Pareto k-hat"
    drawn = np.concatenate([line.get_ydata() for line in ax.lines[:-1]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(result.k))
    figure.savefig(tmp_path / "k.png")
    odd = dataclasses.replace(result, k=np.array([np.inf, np.nan, 0.0]), exact=result.exact[:3])
    plots.plot_pareto_k(odd).savefig(tmp_path / "odd.png")


def test_sbc_and_coverage(narrow, tmp_path):
    p, x = narrow
    result = sbc(p.model, p.guide, x, simulations=100, seed=0)
    figure = plots.plot_sbc(result, components=3)
    histograms, ecdf = figure.subfigs
    titles = [ax.get_title() for ax in histograms.axes if ax.get_title()]
    assert len(titles) == 3
    assert titles[0].startswith("log p(x, z)")
    heights = [patch.get_height() for patch in histograms.axes[0].patches[1:]]
    assert sum(heights) == 100
    labels = ecdf.axes[0].get_legend_handles_labels()[1]
    assert {"z[0]", "z[1]", "z[2]", "log p(x, z)"} <= set(labels)
    figure.savefig(tmp_path / "sbc.png")
    (ax,) = plots.plot_coverage(coverage(p.model, p.guide, x, simulations=100, seed=0)).axes
    assert "100 simulations" in ax.get_title()
    assert "z" in ax.get_legend_handles_labels()[1]


def test_predictive(narrow, tmp_path):
    p, x = narrow
    result = predictive_check(p.model, p.guide, x, draws=30, seed=0)
    figure = plots.plot_predictive(result)
    titles = [ax.get_title() for ax in figure.axes]
    assert [t.split("   ")[0] for t in titles] == list(result.observed)
    figure.savefig(tmp_path / "check.png")


@pytest.mark.parametrize("gaps", [True, False])
def test_nuts(narrow, gaps, tmp_path):
    p, x = narrow
    torch.manual_seed(0)
    result = against_nuts(
        p.model, p.guide, x, rows=2, draws=12, warmup=12, guide_draws=50, gaps=gaps
    )
    figure = plots.plot_nuts(result, components=4)
    assert len(figure.axes) == (2 if gaps else 1)
    assert len(figure.axes[0].get_yticks()) == 4
    if gaps:
        assert figure.axes[1].get_ylabel() == "nats"
    figure.savefig(tmp_path / "nuts.png")
