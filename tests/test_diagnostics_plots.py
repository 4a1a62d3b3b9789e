"""The pictures: what they show is labelled and drawn from the results."""

import dataclasses

import numpy as np
import pytest
import torch
from ppca import PPCA

from ppl_vae import plots
from ppl_vae.diagnostics import against_nuts, coverage, pareto_k, predictive_check, sbc
from ppl_vae.plots.output import svg
from ppl_vae.training.history import History


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


def test_counts_rows_and_codes_of_a_wide_table(tmp_path):
    """Text is text: no axis shows the markup of mathematics, and names are drawn as they are."""
    x = np.random.default_rng(0).poisson(np.geomspace(0.5, 40, 60), (80, 60)).astype(float)
    x[3, 5] = np.nan
    names = [f"${k}$" for k in range(60)]
    figures = {
        "counts": plots.counts(x, x[:50]),
        "columns": plots.against_columns(x, x[:50]),
        "rows": plots.heat_map(x, np.nan_to_num(x), names, x[:40]),
        "moved": plots.moved(np.nan_to_num(x[:3]), ["z[0]", "z[1]", "z[2] (inactive)"], names),
        "panels": plots.columns(
            dict(zip(names, x.T, strict=True)), dict(zip(names, x.T, strict=True))
        ),
    }
    drawn = {name: svg(figure) for name, figure in figures.items()}
    assert "mathdefault" not in "".join(drawn.values())
    assert "$59$" in drawn["moved"]
    assert "the 40 columns of 60 that are moved most" in drawn["moved"]
    assert "the first 12 of 60 columns" in drawn["panels"]
    left, right = figures["counts"].axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), np.nanvar(x, 0))
    few = x[:50]
    zeros = np.where(np.isnan(few), np.nan, few == 0)
    np.testing.assert_allclose(right.lines[2].get_ydata(), np.nanmean(zeros, 0))
    plots.save(figures["rows"], tmp_path / "rows.png", "Rows")


def test_terms_targets_and_codes_over_the_epochs():
    rows = [
        {"epoch": e, "loss": 9.0 / e, "rate": e * 1.0, "target/rate": 3.0,
         "total_correlation": 0.1, "sd/z[0]": 1 / e, "spread/z[0]": 1.0}
        for e in range(1, 5)
    ]  # fmt: skip
    log = History(rows)
    figure = plots.curves({"": log}, ["rate", "total_correlation", "divergence"])
    assert [axes.get_title() for axes in figure.axes] == ["loss", "rate", "total correlation"]
    dashed = [line for line in figure.axes[1].lines if line.get_label() == "target"]
    assert dashed[0].get_ydata().tolist() == [3.0] * 4
    noise, spread, most = plots.noise_and_spread(log).axes
    assert noise.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
    assert spread.lines[0].get_ydata().tolist() == [1.0] * 4
    np.testing.assert_allclose(most.lines[0].get_ydata()[1], 0.5 * np.log(5))
    assert plots.noise_and_spread(History([{"epoch": 1, "loss": 2.0}])) is None
