"""What can be declared on the command line: parts, networks of objectives, one's own classes."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ppl_vae import Experiment, load
from ppl_vae.bodies import MLP
from ppl_vae.cli import main
from ppl_vae.config.slots import read_slot
from ppl_vae.data import GaussianMixture
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import MMD, TCVAE, Adversarial, InfoVAE, MutualAutoencoder
from ppl_vae.objectives.divergences.aggregate_kl import AggregateKL
from ppl_vae.objectives.divergences.memory import Memory
from ppl_vae.training.run import Run

pytestmark = pytest.mark.usefixtures("unpainted")

POINTS = [
    *("--data", "gaussian_mixture", "--data.n", "60", "--likelihood", "normal"),
    *("--dim", "2", "--epochs", "1", "--batch-size", "32"),
]

OWN = '''
from torch import nn
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import Divergence
from ppl_vae.priors import StandardNormal
from ppl_vae.pairs.vae import VAE

class Body(nn.Module):
    def __init__(self, inputs, outputs, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs.numel(), width), nn.Tanh(),
            nn.Linear(width, outputs.numel()), nn.Unflatten(1, outputs))

    def forward(self, x):
        return self.layers(x)

class Shifted(StandardNormal):
    def __init__(self, dim, by: float = 1.0):
        super().__init__(dim)
        self.constant("loc", by)

class Moments(Divergence):
    """Squared distance of the first moments."""
    def forward(self, q):
        return (q.codes.mean(0) - q.prior_draws().mean(0)).square().sum()

class Pair(VAE):
    def __init__(self, prior, likelihood, encoder, note: str = "none"):
        super().__init__(prior, likelihood, encoder)
        self.note = note

class Broken(StandardNormal):
    def __init__(self, dim):
        raise TypeError("broken\\nin two lines")
'''
TRUSTED = {
    "body": ["--encoder.body", "own_parts.Body", "--encoder.body.width", "5"],
    "prior": ["--prior", "own_parts.Shifted", "--prior.by", "2"],
    "divergence": ["--objective.divergence", "own_parts.Moments", "--objective.scale", "1"],
    "critic": ["--objective.divergence", "Adversarial", "--objective.divergence.net",
               "own_parts.Body", "--objective.divergence.net.width", "3"],
    "pair": ["--pair", "own_parts.Pair", "--pair.note", "mine"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "own_parts.py").write_text(OWN)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The one line that a refused command says; nothing may be written."""
    assert main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if "warning" not in line]
    assert len(lines) == 1, captured.err
    assert not list(Path().iterdir())
    return lines[0]


# One's own classes


@pytest.mark.parametrize("kind", TRUSTED)
def test_own_classes_by_import_path(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", *POINTS, *TRUSTED[kind], "--out", "run"]
    assert "was not imported; --trust allows it" in refused(capsys, *words)
    assert "own_parts" not in sys.modules
    assert main([*words, "--trust"]) == 0
    for command in ("evaluate", "sample", "report"):
        sys.modules.pop("own_parts", None)
        asked = [command, "run", *(["--metrics", "elbo"] if command == "evaluate" else [])]
        if command == "report":
            asked += ["--out", "report.html"]
        assert main(asked) == 2
        assert "--trust allows it" in capsys.readouterr().err
        assert "own_parts" not in sys.modules
        assert main([*asked, "--trust"]) == 0
    experiment = load("run", trust=True)
    saved = Run("run").load_weights()
    for key, value in experiment.pair.state_dict().items():
        torch.testing.assert_close(saved[f"model.{key}"], value)
    if kind == "body":
        assert experiment.pair.encoder.network.layers[1].out_features == 5
    if kind == "pair":
        assert experiment.pair.note == "mine"


def test_a_mistake_in_an_own_class_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["fit", *POINTS, "--prior", "own_parts.Broken", "--trust"]
    assert refused(capsys, *words, code=1) == (
        "ppl-vae: TypeError: broken (PPL_VAE_TRACEBACK=1 shows where)"
    )


# Networks of objectives


def test_a_critic_is_built_for_the_codes_and_from_the_seed() -> None:
    words = ["--objective.divergence", "Adversarial", "--objective.divergence.hidden", "[8]"]
    words += ["--objective.scale", "64"]
    assert main(["fit", *POINTS, *words, "--seed", "3", "--out", "run"]) == 0
    made = []
    for _ in range(2):
        torch.rand(5)
        objective = InfoVAE(Adversarial(hidden=[8]), scale=64.0)
        experiment = Experiment(
            GaussianMixture(n=60), objective, dim=2, likelihood=Normal, seed=3, epochs=1,
            batch_size=32,
        )  # fmt: skip
        made.append(experiment.fit(progress=False).rows)
        assert sum(p.numel() for p in objective.parameters()) == 2 * 8 + 8 + 8 + 1
    assert made[0] == made[1] == Run("run").history.rows


def test_a_critic_over_the_layers_that_are_compared() -> None:
    words = ["--pair", "HierarchicalVAE", "--encoder", "Ladder", "--dim", "[3, 2]"]
    for sites, reads in ((None, 5), ('["z2"]', 2)):
        given = [] if sites is None else ["--objective.sites", sites]
        words += ["--objective.divergence", "Adversarial", "--out", f"run{reads}"]
        assert main(["fit", *POINTS, *words, *given]) == 0
        critic = load(f"run{reads}").objective.divergences[0].net
        assert critic[0].in_features == reads


def test_an_auxiliary_is_built_for_the_data() -> None:
    words = ["--objective", "MutualAutoencoder", "--objective.information", "1",
             "--objective.auxiliary", "MeanFieldNormal",
             "--objective.auxiliary.body.hidden", "[8]"]  # fmt: skip
    assert main(["fit", *POINTS, *words, "--out", "run"]) == 0
    auxiliary = load("run").objective.auxiliary
    assert isinstance(auxiliary, MeanFieldNormal)
    assert (auxiliary.size, auxiliary.dim) == (torch.Size([2]), 2)


def test_unbuilt_networks_say_so() -> None:
    x, model = torch.randn(6, 2), experiment_pair()
    for objective in (
        InfoVAE(Adversarial(), scale=2.0),
        MutualAutoencoder(1.0, 1.0, MeanFieldNormal),
    ):
        with pytest.raises(ValueError, match="is not made yet: give a module"):
            objective.loss(model.model, model.guide, x)
        objective.build((2,), {"z": 2})
        assert abs(objective.loss(model.model, model.guide, x)) < float("inf")


def experiment_pair() -> object:
    return Experiment(GaussianMixture(n=60), InfoVAE(MMD()), dim=2, likelihood=Normal).pair


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Implicit", "the auxiliary Implicit has no density"),
        ("Deterministic", "the auxiliary Deterministic has no density"),
        ("VonMisesFisher", "whose support the codes of z leave: use one over all vectors"),
        ("MMD", "there is no 'MMD'; known: Deterministic, Flow"),
        ("Bernoulli", "there is no 'Bernoulli'; known: Deterministic, Flow"),
    ],
)
def test_an_auxiliary_that_does_not_fit(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--objective", "MutualAutoencoder", "--objective.information", "1",
             "--objective.auxiliary", name]  # fmt: skip
    assert message in refused(capsys, "fit", *POINTS, *words)


def test_bodies_are_offered_for_bodies_and_encoders_for_an_auxiliary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "known: DCGAN, MLP, Masked, ResNet" in refused(
        capsys, "fit", "--encoder.body", "Bernoulli"
    )
    slot = read_slot(torch.nn.Module)
    assert slot.admits(MLP)  # by import path any module
    assert not slot.offers(MLP)


# The number of data


@pytest.mark.parametrize("build", [TCVAE, lambda **k: InfoVAE(AggregateKL(**k), scale=2.0)])
def test_fit_says_how_many_data_there_are(build: type) -> None:
    """A batch is not taken for the world: as if the size had been given."""
    losses = []
    for size in ({}, {"size": 60}, {"size": 32}):
        experiment = Experiment(
            GaussianMixture(n=60), build(**size), dim=2, likelihood=Normal, epochs=1,
            batch_size=30,
        )  # fmt: skip
        losses.append(experiment.fit(progress=False)["loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_sizes_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--objective", "TCVAE", "--objective.size", "5"]
    assert "TCVAE size=5: a batch of 32 data is of more" in refused(capsys, "fit", *POINTS, *words)
    with pytest.raises(ValueError, match="a Memory of a Memory"):
        Memory(Memory(MMD()))


# Runs of every kind


@pytest.mark.parametrize("prior", ["StandardNormal", "VampPrior"])
def test_an_implicit_guide_is_fitted_and_evaluated(
    prior: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *POINTS, "--encoder", "Implicit", "--prior", prior, "--out", "run"]) == 0
    assert Run("run").summary["metrics"]["rate"]["value"] is None
    capsys.readouterr()
    assert main(["evaluate", "run", "--quick"]) == 0
    told = capsys.readouterr().out
    assert "rate                         unknown: the guide has no density" in told
    # a proposal is fitted, but to no prior without a density
    assert ("\nlog_likelihood  " in told) == (prior == "StandardNormal")
    assert "\ndistortion" in told
    assert main(["report", "run", "--out", "report.html"]) == 0


@pytest.mark.parametrize(
    "likelihood",
    [
        ["PixelCNN", "--likelihood.width", "4", "--likelihood.depth", "1"],
        ["Categorical", "--likelihood.levels", "2"],
    ],
)
def test_data_drawn_anew_are_held_against_the_support_as_drawn(likelihood: list[str]) -> None:
    np.savez("x.npz", train=np.random.default_rng(0).random((40, 1, 4, 4)))
    data = ["--data", "binarized", "--data.data", "arrays", "--data.data.path", "x.npz"]
    words = ["fit", *data, "--likelihood", *likelihood, "--dim", "2", "--epochs", "1"]
    assert main([*words, "--out", "run"]) == 0
    assert main(["sample", "run", "--n", "3", "--out", "s.npy"]) == 0
    assert set(np.unique(np.load("s.npy"))) <= {0.0, 1.0} or likelihood[0] == "Categorical"


def test_levels_of_the_pixels_by_a_flag() -> None:
    np.savez("x.npz", train=np.random.default_rng(0).integers(0, 5, (40, 3, 2, 2)) / 4)
    words = ["fit", "--data", "arrays", "--data.path", "x.npz", "--likelihood", "PixelCNNpp",
             "--likelihood.pixels.levels", "5", "--likelihood.width", "4", "--likelihood.depth",
             "1", "--dim", "2", "--epochs", "1", "--out", "run"]  # fmt: skip
    assert main(words) == 0
    assert load("run").pair.likelihood.pixels.levels == 5


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior="], "prior is null, not ConditionalNormal"),
        (
            ["--prior", "StudentT", "--prior.df", "0"],
            "StudentT: df must be above 0 and finite, got 0",
        ),
        (["--prior", "Laplace", "--prior.scale", "-1"], "Laplace: scale must be above 0 and"),
        (["--encoder.initial_scale", "-1"], "MeanFieldNormal: initial_scale must be above 0"),
        (["--encoder.body.hidden", "[0]"], "MLP: layers of [0] units: give 1 or more each"),
        (["--encoder.body", "DCGAN"], "not from (2,) to (4,): use MLP for other data"),
        (["--seed", "-1"], "seed must lie between 0 and 4294967295, got -1"),
        (["--critic_steps", "-1"], "critic_steps must be at least 0, got -1"),
        (["--objective.scale", "nan"], "the loss of InfoVAE is nan before any training"),
        (
            ["--objective.divergence", "Adversarial", "--objective.divergence.bound", "js"],
            "is 'js', not one of 'JS', 'KL'",
        ),
    ],
)
def test_values_that_cannot_be(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "fit", *POINTS, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dim: null", "dim is null, not an integer or a list"),
        ("data: null", "data is null, not "),
        ("prior: Laplace\nprior: StudentT", "says 'prior' twice: leave one"),
        ("objective: {init_args: {scale: 2, scale: 3}}", "says 'scale' twice"),
    ],
)
def test_files_that_cannot_be(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "y.yaml").write_text(text)
    assert message in refused(capsys, "show", "--config", str(tmp_path / "y.yaml"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([["a", "b"]]), "train holds <U1, not real numbers"),
        (np.zeros((1, 6)), "has 1 rows, too few to hold 0.1 of them out"),
        (np.zeros((0, 6)), "has 0 rows, too few"),
    ],
)
def test_arrays_that_cannot_be(
    rows: np.ndarray, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", rows)
    found = refused(capsys, "fit", "--data", "arrays", "--data.path", str(tmp_path / "x.npy"))
    assert message in found


# show


def test_show_prints_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *POINTS, "--prior", "VampPrior", "--prior.components", "20"]) == 0
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "prior VampPrior(components=20, link=sigmoid)" in told
    assert any(line.startswith("objective InfoVAE(divergence=MMD(") for line in told)
    assert "epochs 1" in told
    assert "encoder MeanFieldNormal 266,244 Normal, batch (2,), event (2,)" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--likelihood", "Poisson"], "site 'x' is Poisson with support"),
        (["--prior", "Uniform", "--objective", "BetaVAE"], "use UniformBox for the guide"),
        (["--out", "graph.txt"], "the graph's file must end in .png, .pdf or .svg"),
    ],
)
def test_show_refuses_what_fit_would(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "show", *POINTS, *words)


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's program dot is not installed")
def test_show_draws_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pair", "HierarchicalVAE", "--encoder", "Ladder", "--dim", "[3, 2]"]
    assert main(["show", *POINTS, *words, "--out", "graph.svg"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "graph.svg"
    text = Path("graph.svg").read_text()
    for site in ("z2", "z1", "x", "data"):
        assert f">{site}<" in text
    assert [p.name for p in Path().iterdir()] == ["graph.svg"]


def test_without_graphviz_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    said = refused(capsys, "show", *POINTS, "--out", "graph.svg")
    assert said == "ppl-vae: drawing the graph needs graphviz: pip install 'ppl-vae[graph]'"


def test_the_settings_of_a_file_are_all_in_the_runs_own(tmp_path: Path) -> None:
    """`--config run.yaml --prior VampPrior --prior.components 100`: the file, then the flags."""
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"data": "TwoPoints", "dim": 1, "epochs": 1, "likelihood": "Normal"})
    )
    words = ["--prior", "VampPrior", "--prior.components", "100", "--out", "run"]
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), *words]) == 0
    config = Run("run").config
    assert config["prior"]["init_args"]["components"] == 100
    assert config["data"]["class_path"] == "ppl_vae.data.TwoPoints"
    assert config["pair"]["class_path"] == "ppl_vae.VAE"
    assert load("run").pair.prior.components == 100


def test_a_likelihood_of_a_cost_alone_has_no_likelihood_to_evaluate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "--likelihood",
        "Deterministic",
        "--objective",
        "WAE",
        "--objective.divergence",
        "MMD",
    ]
    assert main(["fit", *POINTS, *words, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--quick"]) == 0
    told = capsys.readouterr().out
    without = "log_likelihood, khat_usable, khat_median, sbc, coverage"
    assert f"\nno {without}: the likelihood gives the data no density" in told
    assert "\nkhat" not in told
    assert "distortion                   infinite" in told
