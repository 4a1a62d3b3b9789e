"""Rows that are read batch by batch: the same results as in memory, in little memory."""

import math
import subprocess
import sys
from collections.abc import Iterator
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
from torch.utils.data import Dataset as TorchDataset

from ppl_vae import VAE, ConditionalVAE, Experiment, MeanFieldNormal, Normal, StandardNormal, fit
from ppl_vae.bodies import MLP
from ppl_vae.data import Binarized, Dataset, PartlyLabelled
from ppl_vae.data.known import Known
from ppl_vae.data.moments import Few, Moments
from ppl_vae.data.stream import Stream
from ppl_vae.data.transform import Transform
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.pairs.semisupervised import SemiSupervisedVAE
from ppl_vae.using import Trained

SMALL = partial(MLP, hidden=(8,))
ROWS = torch.randn(131, 4, generator=torch.Generator().manual_seed(0)) * 2 + 3
LABELS = torch.arange(131) % 3


def vae(size: tuple[int, ...] = (4,)) -> VAE:
    pyro.clear_param_store()
    torch.manual_seed(0)
    encoder = MeanFieldNormal(size, 2, body=SMALL)
    return VAE(StandardNormal(2), Normal(2, size, body=SMALL), encoder)


def trained(data: Any, **settings: Any) -> list[dict[str, float]]:
    pair = vae()
    options: dict[str, Any] = {"epochs": 2, "batch_size": 50, "progress": False} | settings
    return fit(pair.model, pair.guide, data, InfoVAE(MMD(), scale=5.0), **options).rows


class Lines(IterableDataset[Any]):
    """Rows one after the other, a share of them to each worker."""

    def __init__(self, rows: Tensor = ROWS) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Tensor]:
        worker = torch.utils.data.get_worker_info()
        rows = self.rows if worker is None else self.rows[worker.id :: worker.num_workers]
        return iter(rows)


@pytest.mark.parametrize("settings", [{}, {"normalise": "standardise"}])
def test_a_map_style_data_set_trains_bit_for_bit_as_its_tensor(settings: Any) -> None:
    """All of it: order, batches, a lone last row joined, and every other draw."""
    held_out = ROWS[:37] + 0.5
    expected = trained(ROWS, validation=held_out, **settings)
    found = trained(TensorDataset(ROWS), validation=TensorDataset(held_out), **settings)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            close = pytest.approx(other[name], rel=1e-5, abs=1e-6)
            assert row[name] == (close if settings else other[name]), name


def test_a_loader_keeps_its_order_its_batches_and_its_workers() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> None:
        seen.append(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), pyro.param("sd", torch.ones(()))))

    loader = DataLoader(TensorDataset(ROWS), batch_size=26, num_workers=1)
    history = fit(model, guide, loader, BetaVAE(), epochs=1, progress=False)
    assert history.last["step"] == 5
    passed = [x for x in seen if len(x) in (26, 27)]
    assert [len(x) for x in passed].count(27) >= 1  # the lone last row joined the batch before it
    k = next(i for i in range(len(seen)) if torch.equal(torch.cat(seen[i : i + 5]), ROWS))
    assert [len(x) for x in seen[k : k + 5]] == [26, 26, 26, 26, 27]
    with pytest.raises(ValueError, match="batch_size is 32 and the DataLoader's is 26"):
        fit(model, guide, loader, BetaVAE(), batch_size=32, progress=False)


def test_the_loader_s_batch_size_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    pair = vae()
    loader = DataLoader(TensorDataset(ROWS), batch_size=26)
    fit(pair.model, pair.guide, loader, BetaVAE(), epochs=1)
    assert "steps of 26 rows, as the DataLoader gives them" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_gives_every_row_once_in_an_order_by_the_seed(workers: int) -> None:
    source: Any = Lines()
    if workers:
        source = DataLoader(source, batch_size=50, num_workers=workers)
    stream = Stream(source)
    assert len(stream) == 131
    cpu, passes = torch.device("cpu"), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        passes.append(torch.cat([x for (x,) in stream.batches(50, cpu)]))
    for x in passes:
        assert torch.equal(x.sort(0).values, ROWS.sort(0).values)
    assert torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0], passes[2]) == bool(workers)  # a loader's order is its own
    if not workers:
        assert not torch.equal(passes[0], ROWS)
        assert trained(Lines())[-1]["step"] == trained(ROWS)[-1]["step"]


# What one pass tells


@pytest.mark.parametrize("shape", [(4,), (2, 3, 5)])
def test_moments_of_batches_are_those_of_all_rows(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, *shape, generator=g, dtype=torch.double) * 0.01 + 1e6
    x = x.masked_fill(torch.rand(200, *shape, generator=g) < 0.2, torch.nan)
    moments = Moments(torch.Size(shape))
    for batch in x.split(37):
        moments.add(batch)
    centred = x - x.nanmean(0)
    torch.testing.assert_close(moments.mean, x.nanmean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(moments.variance, centred.square().nanmean(0), rtol=1e-6, atol=0)
    assert torch.equal(moments.low, x.nan_to_num(torch.inf).amin(0))
    assert torch.equal(moments.high, x.nan_to_num(-torch.inf).amax(0))
    for kind in ("standardise", "minmax"):
        found, expected = Transform.of(kind, moments), Transform.of(kind, x)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.shift, expected.shift, rtol=1e-12)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-6)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float16])
def test_moments_of_any_type_of_number(kind: torch.dtype) -> None:
    x = torch.randint(0, 200, (90, 3), generator=torch.Generator().manual_seed(0))
    moments = Moments(torch.Size([3]))
    for batch in x.to(kind).split(20):
        moments.add(batch)
    torch.testing.assert_close(moments.mean, x.double().mean(0))
    torch.testing.assert_close(moments.variance, x.double().var(0, correction=0))
    assert moments.broken.isnan().all()


def test_every_row_of_a_stream_is_kept_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 40 rows: each is kept a quarter of the time, within 4.5 standard errors."""
    monkeypatch.setattr("ppl_vae.data.moments._ROWS", 10)
    counts = torch.zeros(40)
    for seed in range(400):
        few = Few()
        few._generator.manual_seed(seed)
        for batch in torch.arange(40)[:, None].split(7):
            few.add((batch, 2 * batch))
        x, twice = few.parts
        assert torch.equal(2 * x, twice)
        assert len(set(x[:, 0].tolist())) == 10
        counts[x[:, 0]] += 1
    assert ((counts / 400 - 0.25).abs() < 4.5 * (0.25 * 0.75 / 400) ** 0.5).all()


def test_what_is_known_of_a_stream_is_what_is_known_of_its_rows() -> None:
    data = Dataset(TensorDataset(ROWS, LABELS), TensorDataset(ROWS[:9], LABELS[:9]),
                   normalise="standardise")  # fmt: skip
    same = Dataset(ROWS, ROWS[:9], LABELS, LABELS[:9], normalise="standardise")
    assert len(data) == 131
    assert "streamed" in repr(data)
    torch.testing.assert_close(data.train, same.train)
    assert torch.equal(data.train_labels, same.train_labels)  # type: ignore[arg-type]
    known = [Known.of(d, d.arguments("train")) for d in (data, same)]
    for name in ("low", "high", "mean"):
        np.testing.assert_allclose(getattr(known[0], name), getattr(known[1], name), atol=1e-6)
    assert known[0].sizes == known[1].sizes
    assert known[0].types == known[1].types


# What belongs to a row


@pytest.mark.parametrize("pair", [ConditionalVAE, SemiSupervisedVAE])
def test_labels_beside_x_reach_the_pair(pair: Any) -> None:
    histories = []
    for data in (
        Dataset(TensorDataset(ROWS, LABELS), TensorDataset(ROWS[:20], LABELS[:20])),
        Dataset(ROWS, ROWS[:20], LABELS, LABELS[:20]),
    ):
        pyro.clear_param_store()
        run = Experiment(data, BetaVAE(), 2, pair, likelihood=partial(Normal, body=SMALL),
                         encoder=partial(MeanFieldNormal, body=SMALL), epochs=1)  # fmt: skip
        run.check()
        histories.append(run.fit(progress=False).rows)
    assert histories[0] == histories[1]


def test_covariates_beside_x_reach_the_pair() -> None:
    c = torch.randn(131, 2, generator=torch.Generator().manual_seed(1))
    data = Dataset(TensorDataset(ROWS, c), TensorDataset(ROWS[:5], c[:5])).passing("covariates")
    passed = [*data.batches("train").batches(1000)]
    assert torch.equal(torch.cat([c for _, c in passed]).sort(0).values, c.sort(0).values)
    assert data.width == 2
    assert len(data.arguments("test")) == 2


def test_missing_values_of_a_stream_are_left_out() -> None:
    x = ROWS.masked_fill(torch.rand(131, 4, generator=torch.Generator().manual_seed(0)) < 0.2,
                         torch.nan)  # fmt: skip
    found, expected = (trained(d, missing="mask")[-1] for d in (TensorDataset(x), x))
    for name in expected:  # the fill is a mean over batches
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match=r"batch 0 at \[\d, \d\] is nan .*missing=\"mask\""):
        trained(TensorDataset(x))


def test_double_rows_of_a_stream_keep_their_precision() -> None:
    rows = 1e6 + ROWS.double()
    pair = vae().double()
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(args[0])

    pair.encoder.register_forward_pre_hook(keep)
    fit(pair.model, pair.guide, TensorDataset(rows), BetaVAE(), epochs=1, batch_size=200,
        normalise="standardise", progress=False)  # fmt: skip
    whole = seen[-1]
    expected = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(whole.sort(0).values, expected.sort(0).values, atol=1e-9, rtol=0)


def test_bytes_are_divided_on_their_way() -> None:
    images = torch.randint(0, 256, (40, 1, 5, 5), dtype=torch.uint8)
    data = Dataset(TensorDataset(images), TensorDataset(images[:9]), normalise="bytes")
    (x,) = next(iter(data.batches("test").batches(9)))
    assert torch.equal(x.sort(0).values, (images[:9] / 255).sort(0).values)
    with pytest.raises(ValueError, match="all parts as bytes"):
        Dataset(TensorDataset(images), TensorDataset(images / 255), normalise="bytes")
    last = Dataset(TensorDataset(images.movedim(1, -1)), channels="last")
    assert last.size == (1, 5, 5)


# What cannot be streamed


class Once(IterableDataset[Any]):
    """Rows that are gone after one pass."""

    def __init__(self) -> None:
        self.rows = iter(ROWS)

    def __iter__(self) -> Iterator[Tensor]:
        return self.rows


class Ragged(TorchDataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        return self.items[k]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TensorDataset(torch.zeros(0, 4)), "gives no rows"),
        (Ragged(torch.zeros(2), torch.zeros(3)), "items of several shapes"),
        (Ragged(object()), "items that hold .*give numbers"),
        (Ragged({"x": torch.zeros(2)}), r"is \(dict\): give tensors"),
        (Ragged(1.0, 2.0), r"has shape \(2,\), not \(rows, \*shape of one row\)"),
        (Ragged(*[torch.zeros(2)] * 128, torch.zeros(3), torch.zeros(3)),
         r"batch 1 holds floats \(3,\) and the first batch floats \(2,\)"),
        (DataLoader(TensorDataset(ROWS), batch_size=None), r"give a batch_size"),
        (TensorDataset(ROWS, LABELS, LABELS), r"\(Tensor, Tensor, Tensor\)"),
        (TensorDataset(ROWS.masked_fill(ROWS > 6, torch.inf)), "is inf"),
        (TensorDataset(torch.rand(40, 44, 60, 3)), 'channels="last"'),
    ],
)  # fmt: skip
def test_streams_that_are_refused_in_one_line(source: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        trained(source, batch_size=128)
    assert "\n" not in str(error.value)


def test_what_is_gone_after_one_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin anew each time it is iterated"):
        trained(Once())


def test_the_support_is_held_against_the_whole_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single value outside, in none of the few rows that are kept."""
    monkeypatch.setattr("ppl_vae.data.moments._ROWS", 8)
    from ppl_vae.likelihoods import Poisson

    for wrong, words in ((-1.0, "is -1"), (2.5, "is 2.5")):
        counts = torch.ones(60, 4)
        counts[50, 2] = wrong
        pyro.clear_param_store()
        pair = VAE(StandardNormal(2), Poisson(2, (4,), body=SMALL),
                   MeanFieldNormal((4,), 2, body=SMALL))  # fmt: skip
        with pytest.raises(ValueError, match=f"excludes the data.*{words}"):
            fit(pair.model, pair.guide, TensorDataset(counts), BetaVAE(), progress=False)


def test_settings_that_need_rows_in_memory_are_refused() -> None:
    data = Dataset(TensorDataset(ROWS / 10, LABELS), name="mine")
    for make in (Binarized, PartlyLabelled):
        with pytest.raises(ValueError, match="mine is streamed"):
            make(data)
    with pytest.raises(ValueError, match="train is streamed, and labels"):
        Dataset(TensorDataset(ROWS), train_labels=LABELS)
    with pytest.raises(ValueError, match="is streamed, and labels, covariates and weights"):
        trained(TensorDataset(ROWS), weights=torch.ones(131))


# Memory


@pytest.mark.slow
def test_resident_memory_stays_within_a_few_batches(tmp_path: Path) -> None:
    """600 MB of rows made on the fly, and as many held out, in a process that may not grow."""
    script = tmp_path / "stream.py"
    script.write_text(
        "import resource, torch\n"
        "from functools import partial\n"
        "from torch.utils.data import DataLoader, IterableDataset, TensorDataset\n"
        "from ppl_vae import VAE, BetaVAE, MeanFieldNormal, Normal, StandardNormal, fit\n"
        "from ppl_vae.bodies import MLP\n"
        "class Made(IterableDataset):\n"
        "    def __iter__(self):\n"
        "        for _ in range(75):\n"
        "            yield torch.randn(2000, 1).repeat(1, 1000)\n"
        "small = partial(MLP, hidden=(4,))\n"
        "vae = VAE(StandardNormal(2), Normal(2, (1000,), body=small),\n"
        "          MeanFieldNormal((1000,), 2, body=small))\n"
        "fit(vae.model, vae.guide, torch.randn(4000, 1000), BetaVAE(), epochs=1,\n"
        "    batch_size=2000, progress=False)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "loader = DataLoader(Made(), batch_size=None)\n"
        "fit(vae.model, vae.guide, loader, BetaVAE(), epochs=1, progress=False,\n"
        "    validation=loader)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    # 16 MB are kept of either and looked at in copies, and a batch of 8 MB is worked on in several
    assert int(run.stdout) / 1024 < 200


def test_use_after_a_stream(tmp_path: Path) -> None:
    pair, again = vae(), vae()
    fit(pair.model, pair.guide, Lines(), BetaVAE(), epochs=1, normalise="standardise",
        out=tmp_path / "run", progress=False)  # fmt: skip
    use = Trained.load(tmp_path / "run", again.model, again.guide)
    assert use.encode(ROWS[:3]).shape == (3, 2)
    assert math.isfinite(float(use.reconstruct(ROWS[:3]).mean()))
