"""Inputs by chance: command lines, configurations, files, arrays and pairs, as JSON values.

An input is plain, so that it can be printed, made smaller and run again.
"""

import random
from typing import Any

__all__ = ["KINDS", "draw"]

Json = Any

WORDS = (
    "", " ", "0", "1", "-1", "2", "0.5", "-0.0", "1e400", "1e-400", "nan", "inf", "-inf", "NaN",
    "9" * 21, "0x10", "1_0", "1,2", "1.5.2", "None", "null", "true", "false", "yes", "~", "[]",
    "{}", "[1]", "[1,[2]]", "[a", "{a: 1}", "{a: {b: c}}", "[" * 200, "*a", "&a b", "!!set {a}",
    "!!python/name:os.system", "'", '"', ":", "a: b", "-", "--", "=", "a=b", "# a", "2001-01-01",
    "x" * 300, "\u00e9", "\u202e", "\U0001f600", "\udcff", "a\nb", "a\tb", "../x", "..", ".", "/",
    "run", "x.npy", "x.csv", "more.yaml", "no.npy", "/dev/null", "/proc/self/mem", "os.system",
    "ppl_vae", "ppl_vae.data", "ppl_vae.data.Nothing", "torch.nn.Linear", "auto", "cpu", "mps:9",
    "cuda:77", "first", "last", "class_path", "init_args", "help", "digits", "normal", "mmd",
)  # fmt: skip
"""Values that are odd in one place or another."""

VALUES: tuple[Json, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 10**18, -(10**18), 0.5, -0.5, 1e-30, 1e30, "", "a", "1",
    "nan", [], [1], [[1]], [None], ["a"], {}, {"a": 1}, {"class_path": "os.system"},
    {"class_path": "ppl_vae.data.Digits"}, {"class_path": None}, {"init_args": {}},
    {"class_path": "StandardNormal", "init_args": {"dim": 2}}, "StandardNormal", "MMD", "IWAE",
    "Digits", "Bernoulli", "Categorical", "MLP", "Adam", "VAE", "Linear", "ConditionalVAE",
)  # fmt: skip

OPTIONS = {
    "sample": ("--out", "--given", "--steps", "--mean", "--seed", "--device", "--n"),
    "encode": ("--data", "--out", "--draws", "--sd", "--weights", "--index", "--seed", "--device"),
    "decode": ("--data", "--out", "--given", "--mean", "--seed"),
    "reconstruct": ("--data", "--out", "--draws", "--index", "--seed"),
    "interpolate": ("--data", "--out", "--steps", "--path"),
    "traverse": ("--data", "--out", "--values", "--dims"),
    "impute": ("--data", "--out", "--draws", "--method", "--samples"),
    "log-likelihood": ("--data", "--out", "--samples", "--index"),
    "evaluate": ("--metrics", "--seed", "--device", "--arviz", "--data.held_out"),
    "report": ("--out", "--seed", "--device"),
    "compare": ("--samples", "--out", "--rows"),
    "show": (
        "--data", "--data.path", "--objective", "--objective.scale", "--objective.divergence",
        "--dim", "--prior", "--likelihood", "--encoder", "--pair", "--config", "--optimizer",
        "--optimizer.lr", "--seed", "--batch-size", "--encoder.body", "--keep", "--start",
        "--prior.components", "--likelihood.scale", "--monitor", "--patience", "--data.held_out",
    ),
    "fit": ("--dim", "--seed", "--batch-size", "--objective", "--optimizer.lr", "--keep", "--out"),
    "sweep": ("--vary", "--seeds", "--jobs", "--out", "--dim"),
    "refit-prior": ("--out", "--components", "--seed"),
    "reproduce": ("--seed",),
}  # fmt: skip
"""Commands with some of their options."""

FIRST = {
    "report": [["run"], ["run", "run"], ["x.npy"], []],
    "compare": [["run"], ["run", "run"], []],
    "show": [[]],
    "fit": [["--data", "arrays", "--data.path", "x.npy", "--epochs", "1"], ["--epochs", "0"]],
    "sweep": [["--dry-run"], ["--dry-run", "--vary", "dim=1,2"]],
    "reproduce": [["list"], ["nothing"], [""]],
    "evaluate": [["run", "--quick", "--metrics", "usage"], ["nothing"], []],
}
"""What stands before the options."""

# Counts of which large ones are work that was asked for, and no fault.
_COUNTS = ("--n", "--draws", "--samples", "--steps", "--rows", "--components")


def draw(seed: int) -> tuple[str, Json]:
    """The kind and the input of a seed."""
    chance = random.Random(seed)
    kind = chance.choice([*KINDS])
    return kind, KINDS[kind](chance)


def _command(chance: random.Random) -> Json:
    name = chance.choice([*OPTIONS])
    words = [name, *chance.choice(FIRST.get(name, [["run"], ["run"], ["run"], ["gone"], []]))]
    if name not in FIRST and chance.random() < 0.7:
        words += ["--out", chance.choice(["o.npy", "o.csv", "o.npz", "o.png", "o.txt"])]
        if name != "sample":
            words += ["--data", chance.choice(["x.npy", "x.csv", "codes.npy", "x.npz"])]
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        option = chance.choice(OPTIONS[name])
        value = chance.choice(WORDS)
        if option in _COUNTS and value not in ("0", "-1", "1", "2", "nan", "", "[]", "null"):
            value = "3"
        joined = chance.random() < 0.2
        words += [f"{option}={value}"] if joined else [option, value]
    if chance.random() < 0.1:
        words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS))
    if chance.random() < 0.05:
        words.pop(chance.randrange(len(words)))
    if name == "sweep" and "--dry-run" not in words:
        words.append("--dry-run")  # trainings that are asked for take their time
    return words


CONFIG: Json = {
    "data": {"class_path": "ppl_vae.data.Arrays", "init_args": {"path": "x.npy", "held_out": 0.1}},
    "objective": {
        "class_path": "ppl_vae.objectives.InfoVAE",
        "init_args": {
            "divergence": {
                "class_path": "ppl_vae.objectives.MMD",
                "init_args": {"kernel": {"class_path": "ppl_vae.objectives.RBF"}},
            },
            "alpha": 0.5,
            "scale": {"class_path": "ppl_vae.objectives.Linear", "init_args": {"start": 0.0}},
        },
    },
    "dim": 2,
    "pair": {"class_path": "ppl_vae.pairs.VAE"},
    "prior": {"class_path": "ppl_vae.priors.StandardNormal"},
    "likelihood": {
        "class_path": "ppl_vae.likelihoods.Normal",
        "init_args": {"body": {"class_path": "ppl_vae.bodies.MLP", "init_args": {"hidden": [4]}}},
    },
    "encoder": {"class_path": "ppl_vae.guides.MeanFieldNormal"},
    "optimizer": {"class_path": "torch.optim.Adam"},
    "batch_size": 16,
    "patience": None,
    "keep": "last",
    "freeze": [],
    "seed": 0,
}
"""What configurations are changed from."""


def _config(chance: random.Random) -> Json:
    found = _copy(CONFIG)
    del found["optimizer"]
    for _ in range(chance.choice([1, 1, 2, 3, 5])):
        place = chance.choice(_places(found))
        key = chance.choice([*place]) if place else "a"
        what = chance.random()
        if what < 0.45:
            place[key] = _copy(chance.choice(VALUES))
        elif what < 0.75 and "class_path" in place:
            home, _, name = chance.choice(_classes()).rpartition(".")
            place["class_path"] = f"{home}.{name}"
            if chance.random() < 0.5:
                place["init_args"] = {}
        elif what < 0.85:
            place.pop(key, None)
        elif what < 0.95:
            place[chance.choice(["dim", "hidden", "scale", "size", "path", "a", ""])] = _copy(
                chance.choice(VALUES)
            )
        else:
            place[key] = _copy(chance.choice(_places(found)))
    return found


def _classes() -> list[str]:
    from ppl_vae.config.names import public_classes, public_path

    return sorted(public_path(cls) for cls in public_classes())


def _places(value: Json) -> list[Any]:
    """All mappings in a value."""
    found = [value] if isinstance(value, dict) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found + [place for each in inner for place in _places(each)]


def _copy(value: Json) -> Json:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _file(chance: random.Random) -> Json:
    """A file of a run, or of data, some of whose bytes are others."""
    name = chance.choice(
        [
            "run/config.yaml",
            "run/data.json",
            "run/metrics.jsonl",
            "run/summary.json",
            "run/weights.safetensors",
            "x.npy",
            "x.npz",
            "x.csv",
            "x.png",
        ]
    )
    changes = []
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        what = chance.choice(["set", "cut", "insert", "double", "remove"])
        text = chance.choice(['"', "{", "]", ",", "\0", "\xff", "1e999", "null", ":", "-", "\n"])
        changes.append([what, chance.random() ** 2, chance.randrange(256), text])
    return {"file": name, "changes": changes}


def _rows(chance: random.Random) -> Json:
    """A call of a trained pair, or of a data set, with an array of any kind."""
    call = chance.choice(
        ["encode", "decode", "reconstruct", "log_likelihood", "interpolate", "traverse", "impute"]
        + ["Dataset"] * 6
    )
    settings: dict[str, Json] = {}
    if call == "Dataset":
        for name in ("test", "train_labels", "train_covariates", "train_weights", "test_labels"):
            if chance.random() < 0.25:
                settings[name] = _array(chance)
        if chance.random() < 0.5:
            settings["normalise"] = chance.choice(["bytes", "standardise", "minmax", "x", None])
        if chance.random() < 0.3:
            settings["channels"] = chance.choice(["first", "last", "x"])
        if chance.random() < 0.3:
            settings["missing"] = chance.choice(["mask", "refuse", 1])
        if chance.random() < 0.2:
            settings["classes"] = chance.choice([["a"], "ab", [1, 2]])
    return {"call": call, "rows": _array(chance), "settings": settings}


def _array(chance: random.Random) -> Json:
    usual = chance.random() < 0.5
    shape = [chance.choice([1, 2, 5]), chance.choice([2, 4])] if usual else [
        chance.choice([0, 1, 2, 3, 5]) for _ in range(chance.randrange(5))
    ]  # fmt: skip
    return {
        "shape": shape,
        "type": chance.choice(
            ["float32"] * 4
            + ["float64", "float16", ">f4", "longdouble", "int64", "uint8", "int8", "uint32"]
            + ["bool", "complex64", "object", "U3", "datetime64[s]", "bfloat16", ">i2"]
        ),
        "fill": chance.choice(
            ["normal"] * 4 + ["zeros", "ones", "nan", "inf", "one nan", "huge", "tiny", "negative"]
        ),
        "form": chance.choice(
            ["array"] * 3
            + ["tensor", "list", "tuple", "pandas", "grad", "strided", "scalar"]
            + ["none", "text", "readonly", "masked", "several", "series"]
        ),
    }


def _pair(chance: random.Random) -> Json:
    """Sites of a model and of a guide, and the objective that is asked of them."""
    sites = []
    for k in range(chance.choice([1, 1, 2, 3])):
        sites.append(
            {
                "name": f"z{k}",
                "law": chance.choice(["normal"] * 5 + ["lognormal", "bernoulli", "categorical"]),
                "size": chance.choice([0, 1, 2, 3]),
                "place": chance.choice(["data"] * 5 + ["global", "other", "inner"]),
                "guide": chance.choice(
                    ["same"] * 6 + ["none", "size", "place", "law", "detached"]
                ),
                "scale": chance.choice([None, None, None, 2.0, 0.0]),
                "masked": chance.choice([None, None, None, True, False, "rows"]),
            }
        )
    return {
        "sites": sites,
        "rows": chance.choice([1, 2, 5]),
        "observed": chance.choice(["x"] * 6 + ["none", "two", "nan"]),
        "subsample": chance.random() < 0.2,
        "more": chance.random() < 0.1,
        "objective": chance.choice(OBJECTIVES),
        "keywords": chance.choice([{}] * 6 + [{"plate": "data"}, {"plate": "nothing"}]),
        "use": chance.choice(["loss", "loss", "fit", "evaluate"]),
    }


OBJECTIVES = [
    "InfoVAE(MMD())", "InfoVAE(MMD(), scale='auto')", "InfoVAE(Stein())", "InfoVAE(Energy())",
    "InfoVAE(SlicedWasserstein())", "InfoVAE(Sinkhorn())", "InfoVAE(CramerWold())", "TCVAE()",
    "InfoVAE(Memory(MMD()))", "InfoVAE(AggregateKL())", "InfoVAE(FourierMMD())", "BetaVAE(2.0)",
    "IWAE(2)", "WAE(MMD())", "Autoencoder()", "CapacityVAE(1.0)", "InfoVAE(MMD(), alpha=1.0)",
    "InfoVAE(Adversarial())", "GECO(SquaredError(), 1.0)", "MutualAutoencoder(1.0)",
]  # fmt: skip

KINDS = {
    "command": _command,
    "config": _config,
    "file": _file,
    "rows": _rows,
    "pair": _pair,
}
