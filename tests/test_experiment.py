"""Each pair declared in Python, in YAML and by flags, and what a run of it is good for."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae import ConditionalVAE, Experiment, HierarchicalVAE, SemiSupervisedVAE, load
from ppl_vae.bodies import MLP
from ppl_vae.cli.main import main
from ppl_vae.data import Dataset, GaussianMixture, PartlyLabelled
from ppl_vae.evaluation.metric import Effort
from ppl_vae.evaluation.samples import draw, drawn_as
from ppl_vae.guides import Ladder, MeanFieldNormal, RelaxedCategorical
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import MMD, BetaVAE, InfoVAE
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import ConditionalNormal, StandardNormal, VampPrior
from ppl_vae.program.handlers import AtMean
from ppl_vae.report import results
from ppl_vae.report.evaluation import evaluate_run, measured, tell
from ppl_vae.report.shown import Shown
from ppl_vae.training.run import Run
from ppl_vae.using.decoding import decode, latents

small = partial(MLP, hidden=(8,))


def points() -> GaussianMixture:
    return GaussianMixture(3, n=60)


def common() -> dict[str, Any]:
    return {
        "data": points(),
        "objective": InfoVAE(MMD(), scale=5.0),
        "dim": 2,
        "likelihood": partial(Normal, body=small),
        "encoder": partial(MeanFieldNormal, body=small),
        "epochs": 2,
        "batch_size": 32,
    }


COMMON = """
data: {class_path: GaussianMixture, init_args: {components: 3, n: 60}}
objective: {class_path: InfoVAE, init_args: {divergence: MMD, scale: 5}}
dim: 2
likelihood: {class_path: Normal, init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}}}
encoder:
  class_path: MeanFieldNormal
  init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}}
epochs: 2
batch_size: 32
"""


@dataclass
class Declared:
    """One pair as Python arguments, a YAML text and flags."""

    python: dict[str, Any]
    yaml: str
    flags: list[str]


PAIRS = {
    "VAE": Declared({}, "pair: VAE", []),
    "ConditionalVAE": Declared(
        {"pair": ConditionalVAE, "prior": partial(ConditionalNormal, body=small)},
        """
pair: ConditionalVAE
prior:
  class_path: ConditionalNormal
  init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}}
""",
        ["--pair", "conditionalvae", "--prior", "ConditionalNormal", "--prior.body.hidden", "[8]"],
    ),
    "HierarchicalVAE": Declared(
        {
            "dim": [3, 2],
            "pair": partial(HierarchicalVAE, lower=partial(ConditionalNormal, body=small)),
            "encoder": partial(Ladder, body=small, features=8),
        },
        """
dim: [3, 2]
pair:
  class_path: HierarchicalVAE
  init_args:
    lower:
      class_path: ConditionalNormal
      init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}}
encoder:
  class_path: Ladder
  init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}, features: 8}
""",
        ["--dim", "[3, 2]", "--pair", "HierarchicalVAE", "--pair.lower.body.hidden", "[8]",
         "--encoder", "Ladder", "--encoder.body.hidden", "[8]", "--encoder.features", "8"],
    ),
    "SemiSupervisedVAE": Declared(
        {
            "data": PartlyLabelled(points(), labels=12),
            "pair": partial(
                SemiSupervisedVAE, weight=3.0, classifier=partial(RelaxedCategorical, body=small)
            ),
        },
        """
data:
  class_path: PartlyLabelled
  init_args: {data: {class_path: GaussianMixture, init_args: {components: 3, n: 60}}, labels: 12}
pair:
  class_path: SemiSupervisedVAE
  init_args:
    weight: 3
    classifier:
      class_path: RelaxedCategorical
      init_args: {body: {class_path: MLP, init_args: {hidden: [8]}}}
""",
        ["--data", "partly_labelled", "--data.data", "gaussian_mixture", "--data.data.components",
         "3", "--data.data.n", "60", "--data.labels", "12", "--pair", "SemiSupervisedVAE",
         "--pair.weight", "3", "--pair.classifier", "RelaxedCategorical",
         "--pair.classifier.body.hidden", "[8]"],
    ),
}  # fmt: skip
# The flags of COMMON.
FLAGS = [
    "--data", "gaussian_mixture", "--data.components", "3", "--data.n", "60",
    "--objective.divergence", "MMD", "--objective.scale", "5", "--dim", "2",
    "--likelihood", "normal", "--likelihood.body.hidden", "[8]",
    "--encoder.body.hidden", "[8]", "--epochs", "2", "--batch-size", "32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flags(name: str) -> list[str]:
    """The common flags that the pair's own do not replace, and its own."""
    own = PAIRS[name].flags
    kept: list[str] = []
    for key, value in zip(FLAGS[::2], FLAGS[1::2], strict=True):
        if not any(key == o or key.startswith(f"{o}.") for o in own[::2]):
            kept += [key, value]
    return kept + own


def merged(text: str) -> str:
    """COMMON with the keys of another text in place of its own."""
    import yaml

    return yaml.safe_dump(yaml.safe_load(COMMON) | yaml.safe_load(text))


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", PAIRS)
def test_python_yaml_and_flags_are_the_same_thing(name: str) -> None:
    declared = PAIRS[name]
    history = Experiment(**common() | declared.python).fit(progress=False)
    Path("run.yaml").write_text(merged(declared.yaml))
    assert main(["fit", "--config", "run.yaml", "--out", "yaml"]) == 0
    assert main(["fit", *flags(name), "--out", "flags"]) == 0
    # what a run wrote declares it again
    assert main(["fit", "--config", "yaml/config.yaml", "--out", "again"]) == 0
    assert Run("yaml").config == Run("flags").config == Run("again").config
    for run in ("yaml", "flags", "again"):
        assert Run(run).history.rows == history.rows


@pytest.fixture(scope="module", params=PAIRS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of each pair."""
    folder = tmp_path_factory.mktemp("trained") / request.param
    assert main(["fit", *flags(request.param), "--out", str(folder)]) == 0
    return Run(folder)


def test_a_run_is_loaded_equal(trained: Run) -> None:
    first, second = load(trained), load(trained)
    assert type(first.pair).__name__ == trained.path.name
    saved = trained.load_weights()
    for key, value in first.pair.state_dict().items():
        torch.testing.assert_close(value, second.pair.state_dict()[key], rtol=0, atol=0)
        torch.testing.assert_close(value, saved[f"model.{key}"], rtol=0, atol=0)
    summary = trained.summary
    assert summary["rows"] == 12
    assert summary["held_out"]
    assert ("accuracy" in summary["metrics"]) == isinstance(first.pair, SemiSupervisedVAE)
    assert ("mmd_u" in summary["skipped"]) == isinstance(first.pair, ConditionalVAE)


def test_a_run_is_evaluated_sampled_and_reported(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained.path), "--quick"]) == 0
    told = capsys.readouterr().out
    for metric in ("elbo", "log_likelihood", "log_det", "probe_linear", "reconstruction_error",
                   "khat_usable", "sbc/all"):  # fmt: skip
        assert f"\n{metric}" in f"\n{told}", told
    assert ("\naccuracy" in told) == (trained.path.name == "SemiSupervisedVAE")
    # only what does not exist is missing, and says why
    missing = [line for line in told.splitlines() if line.startswith("no ")]
    absent = {name for line in missing for name in line.split(":")[0][3:].split(", ")}
    about = {"sharpness", "sharpness_data"}
    if trained.path.name == "ConditionalVAE":
        parts = ("mutual_information", "total_correlation", "dimension_wise", "marginal_kl")
        about |= {f"surgery/{part}" for part in parts}
        about |= {"information_lower", "information_upper", "mmd_u", "mmd_v"}
    assert absent == about
    assert main(["sample", str(trained.path), "--n", "20", "--out", "x.npy"]) == 0
    drawn = np.load("x.npy")
    assert drawn.shape == (20, 2)
    assert np.isfinite(drawn).all()
    assert main(["report", str(trained.path), "--out", "report.html"]) == 0
    page = Path("report.html").read_text()
    assert "no means" not in page
    for kind in ("Reconstructions", "Samples", "Interpolations", "Latent traversals"):
        assert kind in page


def test_show_says_every_part(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *flags(trained.path.name)]) == 0
    told = capsys.readouterr().out
    pair = load(trained).pair
    for name, part in pair.named_children():
        if not isinstance(part, torch.nn.ModuleList):
            assert any(line.startswith(name) and type(part).__name__ in line
                       for line in told.splitlines())  # fmt: skip
    counts = [
        int(line.split()[2].replace(",", ""))
        for line in told.splitlines()
        if len(line.split()) > 3 and line.split()[2].replace(",", "").isdigit()
        and line.split()[0].rstrip("[0]") in dict(pair.named_children())
    ]  # fmt: skip
    assert sum(counts) == sum(p.numel() for p in pair.parameters())


# Pictures of pairs


def normal(dim: int) -> Normal:
    return Normal(dim, (2,), small)


def experiment(pair: Any, **options: Any) -> Experiment:
    return Experiment(**common() | {"pair": pair} | options)


def programs(made: Experiment) -> tuple[Any, Any]:
    return made.pair.model, made.pair.guide


def test_reconstructions_are_at_posterior_means() -> None:
    made = experiment(VAE)
    args = made.rows()
    mean = made.pair.encoder(args[0]).mean
    expected = made.pair.likelihood(mean).mean
    torch.testing.assert_close(made.reconstruct(args), expected)


def test_reconstructions_given_covariates() -> None:
    made = experiment(ConditionalVAE, prior=partial(ConditionalNormal, body=small))
    x, c = made.rows()
    assert c.shape == (12, 3)
    assert (c.sum(1) == 1).all()
    mean = made.pair.guide.__self__.encoder(torch.cat([x, c], -1)).mean
    expected = made.pair.likelihood(torch.cat([mean, c], -1)).mean
    torch.testing.assert_close(made.reconstruct((x, c)), expected)
    # another covariate, another picture
    turned = c.roll(1, -1)
    other = made.decode(mean, turned)
    torch.testing.assert_close(other, made.pair.likelihood(torch.cat([mean, turned], -1)).mean)


def test_lower_layers_follow_the_top() -> None:
    made = experiment(HierarchicalVAE, dim=[3, 2], encoder=partial(Ladder, body=small))
    args = made.rows()
    top = torch.randn(len(args[0]), 2)
    below = made.pair.lower[0](top).mean
    expected = made.pair.likelihood(below).mean
    torch.testing.assert_close(decode(*programs(made), args, {"z2": top}), expected)
    held = torch.randn(len(args[0]), 3)
    found = decode(*programs(made), args, {"z2": top, "z1": held})
    torch.testing.assert_close(found, made.pair.likelihood(held).mean)


def test_the_likeliest_class_is_reconstructed() -> None:
    for classifier in ("OneHotCategorical", "RelaxedCategorical"):
        import ppl_vae.guides

        kind = partial(getattr(ppl_vae.guides, classifier), body=small)
        made = experiment(partial(SemiSupervisedVAE, classifier=kind))
        args = made.rows()
        assert (args[1] == -1).all()
        found = latents(*programs(made), args)
        assert set(found) == {"z", "y_unobserved"}
        chosen = made.pair.classify(args[0]).argmax(-1)
        assert torch.equal(found["y_unobserved"].argmax(-1), chosen)
        assert torch.equal(found["y_unobserved"].sum(-1), torch.ones(12))
        right = (chosen == made.data.test_labels).double()
        accuracy = measured(made, names=["accuracy"]).found["accuracy"]
        assert accuracy.value == float(right.mean())
        n, share = len(right), float(right.mean())
        error = (share * (1 - share) / n + 1 / (4 * n**2)) ** 0.5 / (1 + 1 / n)  # Wilson's
        assert accuracy.data_error == pytest.approx(error)


def test_samples_of_each_covariate_in_turn() -> None:
    made = experiment(ConditionalVAE, prior=partial(ConditionalNormal, body=small))
    x, c = made.rows()
    turn = torch.arange(30) % len(x)
    with AtMean(["z"]):
        found = draw(*programs(made), (x, c), 30)
    mean = made.pair.prior(c[turn]).mean
    expected = made.pair.likelihood(torch.cat([mean, c[turn]], -1)).mean
    torch.testing.assert_close(found, expected)
    z = torch.randn(30, 2)
    expected = made.pair.likelihood(torch.cat([z, c[turn]], -1)).mean
    torch.testing.assert_close(made.decode(z), expected)


# What does not fit


def test_what_does_not_fit_is_refused() -> None:
    plain = Dataset(torch.randn(20, 2), name="plain")
    for options, message in [
        ({"pair": HierarchicalVAE}, "takes a Ladder for its encoder, not MeanFieldNormal"),
        ({"pair": HierarchicalVAE, "encoder": Ladder}, r"such as \[16, 4\], got 2"),
        ({"dim": [3, 2]}, r"whole number of at least 1, got \[3, 2\]; several layers .* Ladder"),
        ({"dim": []}, "dim is empty"),
        ({"encoder": Ladder, "dim": [3, 2]}, "Ladder is no encoder of one layer of codes"),
        (
            {"pair": ConditionalVAE, "encoder": Ladder, "dim": [3, 2]},
            "use a HierarchicalVAE for a Ladder",
        ),
        ({"prior": ConditionalNormal}, "this pair has none: use a ConditionalVAE"),
        (
            {"pair": HierarchicalVAE, "encoder": Ladder, "dim": [3, 2], "prior": VampPrior},
            "VampPrior mixes the .* of an Encoder, which Ladder is not: use GaussianMixture",
        ),
        ({"pair": SemiSupervisedVAE, "data": plain}, "plain has no labels"),
        ({"pair": ConditionalVAE, "data": plain}, "plain has neither covariates nor a class"),
        (
            {"pair": ConditionalVAE, "data": PartlyLabelled(points(), 6)},
            "has rows of unknown class and no covariates",
        ),
        ({"pair": lambda *parts: VAE(*parts)}, "give a subclass of Pair, or a partial of one"),
        ({"pair": Normal}, "give a subclass of Pair, or a partial of one"),
    ]:
        with pytest.raises(ValueError, match=message):
            Experiment(**common() | options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pair", "HierarchicalVAE"], "takes a Ladder for its encoder, not MeanFieldNormal"),
        (["--pair", "HierarchicalVAE", "--encoder", "ladder"], "such as [16, 4], got 10"),
        (["--dim", "[16, 4]"], "several layers of codes take a HierarchicalVAE with a Ladder"),
        (["--prior", "conditional_normal"], "conditioned on covariates, and this pair has none"),
        (["--pair", "HierarchicalVAE", "--pair.weight", "3"], "no setting 'weight'"),
        (["--pair", "SemiVAE"], "known: ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE, VAE"),
        (["--pair", "SemiSupervisedVAE", "--pair.classifier", "UniformBox"], "is no classifier"),
    ],
)
def test_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(Path().iterdir())


def test_a_vamp_prior_with_classes_beside() -> None:
    made = experiment(SemiSupervisedVAE, prior=partial(VampPrior, components=4))
    assert made.pair.prior.encoder is made.pair.encoder
    history = made.fit(progress=False)
    assert np.isfinite(history["loss"]).all()


def test_own_pairs_by_class() -> None:
    class Widened(VAE):
        """A user's own pair."""

        def __init__(self, prior: Any, likelihood: Any, encoder: Any, factor: float = 1.0) -> None:
            super().__init__(prior, likelihood, encoder)
            self.factor = factor

    made = experiment(partial(Widened, factor=2.0))
    assert made.pair.factor == 2.0
    assert isinstance(made.pair.prior, StandardNormal)


def test_labels_reach_training_and_not_validation() -> None:
    seen: list[Tensor] = []

    class Watched(SemiSupervisedVAE):
        def guide(self, x: Tensor, y: Tensor) -> Tensor:
            seen.append((self.training, y))
            return super().guide(x, y)

    made = experiment(Watched, data=PartlyLabelled(points(), 12), batch_size=60, epochs=1)
    made.fit(progress=False)
    trained = [y for training, y in seen if training]
    assert all(int((y >= 0).sum()) == 12 for y in trained)
    held_out = [y for _, y in seen if len(y) == 12]
    assert held_out
    assert all((y == -1).all() for y in held_out)


def test_samples_are_called_what_they_are() -> None:
    from ppl_vae.likelihoods import LogisticMixture, PixelCNN

    images = Dataset(torch.rand(20, 3, 4, 4).round(), name="colours")
    for likelihood, what in (
        (PixelCNN, "Draws"),
        (partial(LogisticMixture, levels=2), "Draws"),
        (partial(Normal, body=small), "Means"),
    ):
        made = Experiment(images, InfoVAE(MMD()), dim=2, likelihood=likelihood)
        said = drawn_as(*programs(made), made.rows())
        assert said == f"{what} of p(x | z) at draws of z from the prior"


def rows_with(train_labels: Any, test_labels: Any, held_out: int = 10) -> Dataset:
    train, test = torch.rand(20, 2), torch.rand(held_out, 2)
    return Dataset(train, test, train_labels, test_labels, name="few")


ONES = torch.ones(10, dtype=torch.long)
ABSENT = {
    "one class": (rows_with(ONES.repeat(2), ONES), "two classes"),
    "one labelled row": (rows_with(torch.arange(20).clamp(max=1) - 1, ONES), "class"),
    "no labelled row": (rows_with(-ONES.repeat(2), -ONES), "labels are needed"),
    "one held-out row": (rows_with(torch.arange(20) % 2, ONES[:1], held_out=1), ""),
}


@pytest.mark.parametrize(("data", "reason"), ABSENT.values(), ids=ABSENT)
def test_a_figure_that_is_not_given_says_why_and_stops_nothing(
    data: Dataset, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Experiment(**common() | {"data": data, "objective": BetaVAE()})
    made.fit(tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    summary = evaluate_run(run, made, when=["fit"])
    assert summary == run.summary
    given, skipped = results.values(run), summary["skipped"]
    named = {"distortion", "rate", "active_units", "mmd_u", "log_det", "probe_linear"}
    assert given.keys() | skipped.keys() == named
    assert not given.keys() & skipped.keys()
    assert reason in skipped["probe_linear"] if reason else "probe_linear" in given
    assert ("mmd_u" in given) == (len(data.test) > 1)
    told = tell(run, made)
    for name, why in skipped.items():
        assert any(line.startswith("no ") and name in line and why in line for line in told)
    if len(data.test) == 1:
        few = Effort(samples=25, rows=2, simulations=10)
        found = evaluate_run(run, made, few)
        assert found["skipped"].keys() >= {"mmd_u", "information_lower", "log_det"}


@pytest.mark.filterwarnings("error:posterior collapse", "error:.*degrees of freedom")
def test_one_held_out_row_of_many_columns_has_pictures_and_no_spread(tmp_path: Path) -> None:
    data = Dataset(torch.rand(20, 6), torch.rand(1, 6), name="few")
    made = Experiment(**common() | {"data": data, "objective": BetaVAE(), "epochs": 2})
    history = made.fit(tmp_path / "run", progress=False)
    assert not any(name.startswith(("sd/", "spread/")) for name in history.last)
    evaluate_run(Run(tmp_path / "run"), made, when=["fit"])
    assert (tmp_path / "run" / "moved.png").is_file()
    shown = Shown(made, 0)
    assert not shown.width.isnan().any()
    assert not any("says nothing" in name for name in shown.active(3).values())


def test_too_few_held_out_rows_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = rows_with(None, None, held_out=1)
    made = Experiment(**common() | {"data": data})
    for run in (made.check, partial(made.fit, tmp_path / "run", progress=False)):
        with pytest.raises(ValueError, match="cannot be taken of 1 held-out row") as error:
            run()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_table_of_seeds_has_a_dash_where_a_figure_is_not_given() -> None:
    from ppl_vae.cli.demo import _median, _shown

    given = {"nll": 24.0, "gap": None, "rate": 1.0, "probe": 0.5, "mmd": 0.0}
    shown = _shown(given)
    assert (shown[0], shown[1], shown[-1]) == ("24.00", "-", "-")
    assert _median([None, 3.0, 1.0]) == 2.0
    assert _median([None]) is None
