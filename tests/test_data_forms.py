"""Data in any form, what is done to their values, missing values and weights of rows."""

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppl_vae import (
    VAE,
    Experiment,
    MeanFieldNormal,
    Normal,
    StandardNormal,
    evaluation,
    fit,
    load,
)
from ppl_vae.bodies import MLP, Masked
from ppl_vae.data import Arrays, Dataset
from ppl_vae.data.sources import as_dataset
from ppl_vae.data.transform import Transform
from ppl_vae.likelihoods import Poisson
from ppl_vae.objectives import BetaVAE
from ppl_vae.program.missing import with_missing
from ppl_vae.using import Trained

SMALL = partial(MLP, hidden=(8,))
ROWS = np.random.default_rng(0).normal(3.0, 2.0, size=(60, 4))


class _Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(torch.from_numpy(ROWS))


def forms() -> dict[str, Any]:
    import pandas as pd

    x = torch.from_numpy(ROWS)
    with torch.inference_mode():
        made_by_a_model = x.clone()
    return {
        "tensor": x,
        "inference": made_by_a_model,
        "single": x.float(),
        "array": ROWS,
        "big-endian": ROWS.astype(">f8"),
        "half": ROWS.astype(np.float16),
        "strided": ROWS[::-1][::-1],
        "list": ROWS.tolist(),
        "tensors": [*x],
        "pandas": pd.DataFrame(ROWS, columns=[*"abcd"]),
        "objects": pd.DataFrame(ROWS.astype(object)),
        "torch Dataset": TensorDataset(x),
        "DataLoader": DataLoader(TensorDataset(x), batch_size=16),
        "iterable": _Stream(),
    }


@pytest.mark.parametrize("name", forms())
def test_rows_in_any_form_are_the_same_rows(name: str) -> None:
    data = as_dataset(forms()[name])
    assert data.train.dtype == torch.float32
    expected = torch.from_numpy(ROWS).float()
    torch.testing.assert_close(data.train, expected, atol=0.01 * (name == "half"), rtol=1e-6)


def vae(size: tuple[int, ...] = (4,), **body: Any) -> VAE:
    encoder = MeanFieldNormal(size, 2, body=body.get("body", SMALL))
    return VAE(StandardNormal(2), Normal(2, size, body=SMALL), encoder)


@pytest.mark.parametrize("name", [n for n in forms() if n not in ("tensors", "half", "strided")])
@pytest.mark.parametrize("double", [False, True])
def test_fit_takes_them_at_either_precision(name: str, double: bool) -> None:
    pyro.clear_param_store()
    pair = vae().double() if double else vae()
    history = fit(pair.model, pair.guide, forms()[name], BetaVAE(), epochs=1, progress=False)
    assert math.isfinite(history.last["loss"])


@pytest.mark.parametrize("each", [torch.from_numpy, np.asarray], ids=["tensors", "arrays"])
def test_rows_in_a_list_that_are_taken_for_arguments_are_told_of(each: Any) -> None:
    """A list of tensors or arrays is of arguments; a pair that takes fewer says how rows go."""
    pyro.clear_param_store()
    pair, rows = vae(), [each(row) for row in ROWS]
    words = r"60 arguments, and VAE\.model\(x\) does not take them .*numpy\.stack"
    for use in (
        partial(fit, objective=BetaVAE(), epochs=1, progress=False),
        lambda model, guide, data: evaluation.rate(model, guide, data),
    ):
        with pytest.raises(ValueError, match=words) as error:
            use(pair.model, pair.guide, rows)
        assert "\n" not in str(error.value)


def test_a_list_of_several_shapes_and_text_are_refused_in_one_line() -> None:
    for rows, words in (
        ([[1.0], [1.0, 2.0]], "several shapes"),
        (np.array(["a"]), "not real"),
        (np.array([[1.0, 2.0], [3.0, "x"]], dtype=object), r"'x' in \[1, 1\] first"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            as_dataset(rows)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["standardise", "minmax"])
def test_statistics_are_the_training_rows_and_undone(kind: Any, tmp_path: Path) -> None:
    held_out = ROWS[:9] + 1
    data = Dataset(ROWS, held_out, normalise=kind)
    low = ROWS.mean(0) if kind == "standardise" else ROWS.min(0)
    scale = ROWS.std(0) if kind == "standardise" else np.ptp(ROWS, 0)
    for part, rows in ((data.train, ROWS), (data.test, held_out)):
        assert part is not None
        np.testing.assert_allclose(part.numpy(), (rows - low) / scale, atol=1e-5)
    np.testing.assert_allclose(data.transform.undo(data.train).numpy(), ROWS, atol=1e-5)
    pair, again = vae(), vae()
    fit(pair.model, pair.guide, ROWS, BetaVAE(), epochs=3, normalise=kind, out=tmp_path / "run",
        progress=False)  # fmt: skip
    use = Trained.load(tmp_path / "run", again.model, again.guide)
    scaled = torch.from_numpy((held_out - low) / scale).float()
    with torch.no_grad():
        z = again.encoder.eval()(scaled).mean
        expected = again.likelihood(z).mean.numpy() * scale + low
    np.testing.assert_allclose(use.encode(held_out), z.numpy(), atol=1e-4)
    np.testing.assert_allclose(use.reconstruct(held_out), expected, atol=1e-3)
    np.testing.assert_allclose(use.decode(z.numpy()), expected, atol=1e-3)


def test_parts_of_one_data_set_are_never_scaled_apart(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train=images, test=images[:5] / 255)
    with pytest.raises(ValueError, match=r"float64 and .*uint8.*all parts as bytes"):
        Arrays(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", train=images, test=images[:5].astype(np.int64))
    data = Arrays(str(tmp_path / "b.npz"))
    assert data.test is not None
    torch.testing.assert_close(data.test, data.train[:5])
    assert data.train.max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.int64, ">i4", np.float32])
def test_counts_stay_counts(kind: Any, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3.0, (40, 5))
    np.save(tmp_path / "counts.npy", counts.astype(kind))
    data = Arrays(str(tmp_path / "counts.npy"))
    assert data.test is not None
    assert sorted(torch.cat([data.train, data.test]).sum(1).tolist()) == sorted(counts.sum(1))


def test_channels_last_are_moved_or_refused() -> None:
    images = np.random.default_rng(0).random((6, 12, 10, 3))
    with pytest.raises(ValueError, match='channels="last"'):
        Dataset(images)
    with pytest.raises(ValueError, match='channels="last"'):
        fit(vae().model, vae().guide, images, BetaVAE(), progress=False)
    data = Dataset(images, channels="last")
    assert data.size == (3, 12, 10)
    np.testing.assert_allclose(data.train[2, 1].numpy(), images[2, :, :, 1], atol=1e-6)


def test_a_pickled_member_is_left_out_with_a_word(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", photos=ROWS, notes=np.array([{"x": 1}], dtype=object))
    with pytest.warns(UserWarning, match="notes holds pickled objects and is left out"):
        data = Arrays(str(tmp_path / "a.npz"))
    assert len(data) == 54


def test_double_rows_keep_their_precision_or_are_refused() -> None:
    """From rows and, where torch's default is double, a data set; else in one line."""
    x = torch.from_numpy(ROWS)
    with pytest.raises(ValueError, match="as float64 and is held as float32, and"):
        fit(vae().double().model, vae().double().guide, Dataset(x), BetaVAE(), progress=False)
    pair, seen = vae().double(), []
    pair.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]) or None)
    fit(pair.model, pair.guide, x, BetaVAE(), epochs=1, progress=False)
    assert torch.equal(seen[-1], x)
    torch.set_default_dtype(torch.float64)
    data = Dataset(ROWS, ROWS[:5])
    assert torch.equal(data.train, x)
    encoder, likelihood = partial(MeanFieldNormal, body=SMALL), partial(Normal, body=SMALL)
    run = Experiment(data, BetaVAE(), 2, likelihood=likelihood, encoder=encoder, epochs=1)
    run.fit(progress=False)
    assert run.encode(x[:3]).dtype == torch.float64


def test_new_rows_of_a_run_on_bytes_are_in_its_units(tmp_path: Path) -> None:
    """Integers or floats, with holes or not; and results are too. Scaled ones are refused."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 3, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    data = Arrays(str(tmp_path / "x.npy"))
    run = Experiment(data, BetaVAE(), 2, epochs=1, encoder=partial(MeanFieldNormal, body=SMALL),
                     likelihood=partial(Normal, body=SMALL))  # fmt: skip
    codes = run.encode(images[:5])
    torch.testing.assert_close(
        torch.as_tensor(run.encode(images[:5] / 1.0)), torch.as_tensor(codes)
    )
    with pytest.raises(ValueError, match=r"lie in \[0, 1\] where the training's are bytes"):
        run.encode(images[:5] / 255)
    holes = images[:5] / 1.0
    holes[0, 0, 1, 1] = np.nan
    found = np.asarray(run.impute(holes, num_samples=5, seed=0))
    there = ~np.isnan(holes)
    np.testing.assert_allclose(found[there], holes[there], rtol=1e-6)
    assert abs(found[~there]).max() > 1  # 0 to 255, as the rest


def test_settings_go_to_the_data_set_that_has_them() -> None:
    with pytest.raises(ValueError, match="normalise= is a data set's own: give it to 'data'"):
        fit(vae().model, vae().guide, Dataset(ROWS), BetaVAE(), normalise="minmax")


# Missing values

LOADINGS = torch.tensor([[1.0, 0.5, -1.0, 0.3], [0.0, 1.0, 1.0, -0.6]], dtype=torch.double)
SD = 0.4


def linear(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADINGS.to(x), SD).to_event(1), obs=x)


def prior_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))


def holes(n: int, share: float = 0.3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=g, dtype=torch.double)
    x = z @ LOADINGS + SD * torch.randn(n, 4, generator=g, dtype=torch.double)
    return x, x.masked_fill(torch.rand(n, 4, generator=g) < share, torch.nan)


def exact(x: Tensor) -> Tensor:
    """log p of the values that are there."""
    cov = LOADINGS.T @ LOADINGS + SD**2 * torch.eye(4, dtype=torch.double)
    found = torch.zeros(len(x), dtype=torch.double)
    for i, row in enumerate(x):
        if (k := (~row.isnan()).nonzero()[:, 0]).numel():
            normal = dist.MultivariateNormal(torch.zeros(len(k)).double(), cov[k][:, k])
            found[i] = normal.log_prob(row[k])
    return found


class Exact(torch.nn.Module):
    """The exact posterior given the values that are there."""

    def forward(self, x: Tensor, mask: Tensor) -> None:
        seen = mask.to(x) / SD**2
        precision = torch.eye(2).to(x) + torch.einsum("nk,ik,jk->nij", seen, LOADINGS, LOADINGS)
        mean = torch.linalg.solve(precision, torch.einsum("nk,ik->ni", seen * x, LOADINGS))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


def test_the_likelihood_with_missing_values_is_the_exact_marginal() -> None:
    """At the exact posterior the ELBO is log p(x_seen) itself, whatever is drawn."""
    _, x = holes(30)
    model, guide = with_missing(linear, Exact())
    loss = pyro.infer.Trace_ELBO().loss
    torch.testing.assert_close(-loss(model, guide, x), float(exact(x).sum()), rtol=1e-9, atol=1e-8)
    use = Trained(linear, Exact(), x)
    found = use.log_likelihood(x, 5, seed=0)
    torch.testing.assert_close(found, exact(x), rtol=1e-6, atol=1e-6)


def test_a_fit_with_holes_finds_the_marginal_likelihood() -> None:
    """Pyro's own loss of an exact guide is the negative mean of the exact marginal."""
    _, x = holes(40)
    module = Exact().double()
    module.nothing = torch.nn.Parameter(torch.zeros(()).double())

    def model(x: Tensor) -> None:
        pyro.module("guide", module)
        linear(x)

    elbo = pyro.infer.Trace_ELBO()
    history = fit(model, module, x, elbo, epochs=1, missing="mask", progress=False)
    torch.testing.assert_close(history.last["loss"], float(-exact(x).mean()), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r'is nan \(\d+ such values\).*missing="mask"'):
        fit(model, module, x, BetaVAE(), epochs=1, progress=False)


def test_imputation_errs_as_the_noise_does(tmp_path: Path) -> None:
    """Its error is that of the exact conditional mean, up to Monte Carlo."""
    truth, x = holes(200)
    use = Trained(linear, Exact(), x)
    found = use.impute(x, method="importance", num_samples=400, seed=0)
    there = ~x.isnan()
    assert torch.equal(found[there], x[there])
    gap = (found - truth)[~there]
    cov = LOADINGS.T @ LOADINGS + SD**2 * torch.eye(4, dtype=torch.double)
    noise = []
    for row in x:
        k, m = (~row.isnan()).nonzero()[:, 0], row.isnan().nonzero()[:, 0]
        rest = cov[m][:, m] - cov[m][:, k] @ torch.linalg.solve(cov[k][:, k], cov[k][:, m])
        noise.append(rest.diagonal())
    variance = torch.cat(noise)
    ratio = (gap.square() / variance).mean()
    # chi-squared of one degree each, rows' values correlated at most by 3 of 4 columns
    assert abs(ratio - 1) < 4.5 * (3 * 2 / len(gap)) ** 0.5 + 1 / 400


def test_an_experiment_with_holes_trains_and_is_used(tmp_path: Path) -> None:
    truth, x = holes(300)
    data = Dataset(x, x[:60], missing="mask", name="holes")
    likelihood = partial(Normal, scale=SD, body=SMALL)
    encoder = partial(MeanFieldNormal, body=SMALL)
    run = Experiment(
        data, BetaVAE(), 2, likelihood=likelihood, encoder=encoder, epochs=40, batch_size=50
    )
    assert any(isinstance(m, Masked) for m in run.pair.encoder.modules())
    run.check()
    history = run.fit(progress=False)
    assert math.isfinite(history.last["validation/loss"])
    found, absent = run.impute(x, method="importance", num_samples=50, seed=0), x.isnan()
    # nearer to the truth than the column's mean, which is 0: paired, 4.5 standard errors
    gain = (truth.square() - (found - truth).square())[absent]
    assert gain.mean() > 4.5 * gain.std() / len(gain) ** 0.5
    assert run.log_likelihood(x[:60], 50, seed=0).isfinite().all()


def test_masked_body_tells_a_missing_value_from_its_fill() -> None:
    network = Masked((2,), (3,), body=SMALL)
    x = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    y = network(x)
    assert y.isfinite().all()
    assert not torch.allclose(y[0], y[1])


def test_a_likelihood_of_dependent_elements_is_refused() -> None:
    _, x = holes(20)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))
            cov = torch.eye(4).to(x) + 0.5
            pyro.sample("x", dist.MultivariateNormal(z @ LOADINGS, cov), obs=x)

    with pytest.raises(ValueError, match="not independent given the latents"):
        fit(model, Exact(), x, BetaVAE(), epochs=1, missing="mask", progress=False)


# Weights of rows


def test_a_weight_counts_as_so_many_copies() -> None:
    """The loss and its gradient with whole weights are those of repeated rows."""
    x, _ = holes(12)
    counts = torch.tensor([1, 2, 3, 0] * 3)
    losses = []
    for rows, weights in ((x, counts), (x.repeat_interleave(counts, 0), None)):
        pyro.clear_param_store()
        loc = torch.nn.Linear(4, 2).double()
        with torch.no_grad():
            loc.weight.fill_(0.3)
            loc.bias.fill_(0.1)

        def guide(x: Tensor, loc: torch.nn.Module = loc) -> None:
            pyro.module("loc", loc)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc(x), 1e-6).to_event(1))

        history = fit(linear, guide, rows, BetaVAE(), epochs=1, batch_size=99, weights=weights,
                      progress=False)  # fmt: skip
        losses.append((history.last["loss"], loc.weight.detach().clone()))
    torch.testing.assert_close(losses[0][0] / 1, losses[1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "words"),
    [([1.0], "not one for each of 60"), ([-1.0] * 60, "0 or more"), ([0] * 60, "are all 0")],
)
def test_weights_that_cannot_be_used(weights: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Dataset(ROWS, train_weights=weights)


def test_the_run_keeps_what_was_done(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    from ppl_vae.cli import main

    words = f"fit --data Arrays --data.path {tmp_path / 'x.npy'} --data.normalise standardise"
    more = f"--likelihood normal --dim 2 --epochs 1 --out {tmp_path / 'run'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*words.split(), *more.split()]) == 0
    drawn = load(tmp_path / "run").sample(400, seed=0)
    assert abs(float(drawn.mean()) - 3) < 1.5  # in the units of the data
    assert Transform("standardise", (1.0,), (2.0,)).undo(torch.zeros(1)).item() == 1


def test_numbers_beyond_the_floats_they_become_are_refused() -> None:
    """And none is infinite without a word."""
    x = np.ones((8, 2))
    x[3, 1] = 1e300
    said = r"\[3, 1\] is 1e\+300, beyond what torch.float32 holds"
    with pytest.raises(ValueError, match=said):
        Dataset(x)
    pair = VAE(StandardNormal(2), Normal(2, (2,)), MeanFieldNormal((2,), 2))
    with pytest.raises(ValueError, match=said):
        fit(pair.model, pair.guide, torch.from_numpy(x), BetaVAE(), epochs=1)
    with pytest.raises(ValueError, match=said):
        Trained(pair.model, pair.guide, torch.ones(8, 2)).decode(x)
    assert Dataset(x, normalise="standardise").train.isfinite().all()


def test_a_table_without_columns_is_refused() -> None:
    import pandas

    with pytest.raises(ValueError, match=r"train has shape \(5, 0\)"):
        Dataset(pandas.DataFrame(np.ones((5, 0))))


def test_a_column_of_neither_numbers_nor_text_is_refused() -> None:
    import pandas

    with pytest.raises(ValueError, match=r"column 'a' holds .*1j.*, which is neither number nor"):
        Dataset(pandas.DataFrame({"a": [1j, 2j]}))


def test_masked_values_of_an_array_are_missing() -> None:
    holes = np.arange(60).reshape(20, 3) % 7 == 0
    for rows in (ROWS[:20, :3], ROWS[:20, :3].astype(">f4"), (10 * ROWS[:20, :3]).astype(int)):
        masked = np.ma.masked_array(rows, mask=holes)
        with pytest.raises(ValueError, match=rf"\[0, 0\] is nan \({holes.sum()} such values\)"):
            Dataset(masked)
        found = Dataset(masked, missing="mask").train
        assert torch.equal(found.isnan(), torch.tensor(holes))
        assert np.allclose(found.numpy()[~holes], rows[~holes])


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(3).to_sparse(), "a sparse_coo"),
        (torch.empty(3, 3, device="meta"), "a meta"),
    ],
)
def test_tensors_that_hold_no_plain_numbers_are_named(tensor: torch.Tensor, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"train is {kind} tensor: give a dense one"):
        Dataset(tensor)


def test_counts_in_images_of_bytes_are_named_with_the_remedy(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3, (30, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "counts.npy", counts)
    path = str(tmp_path / "counts.npy")

    def run(data: Dataset) -> Experiment:
        return Experiment(data, BetaVAE(), dim=2, likelihood=Poisson, epochs=1)

    with pytest.raises(ValueError, match=r"bytes of images were divided by 255, so give norm"):
        run(Arrays(path)).fit(progress=False)
    run(Arrays(path, normalise="none")).fit(progress=False)


def test_images_of_yes_and_no_in_bytes_are_not_scaled(tmp_path: Path) -> None:
    images = (np.random.default_rng(0).random((30, 4, 4)) < 0.3).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", train=images, test=images[:4])
    for name in ("a.npy", "a.npz"):
        assert set(Arrays(str(tmp_path / name)).train.unique().tolist()) == {0.0, 1.0}
    np.savez(tmp_path / "b.npz", train=images, test=200 * images[:4])  # bytes all the same
    assert float(Arrays(str(tmp_path / "b.npz")).train.max()) == pytest.approx(1 / 255)
