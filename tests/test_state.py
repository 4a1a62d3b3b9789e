"""The process is left as it was: no setting changes by import or use, and memory stays flat."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch

from ppl_vae import VAE, fit
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Normal
from ppl_vae.objectives import MMD, InfoVAE
from ppl_vae.priors import StandardNormal
from ppl_vae.training import SVI

_SEEN = """
import json, logging, os, random, signal, sys, warnings
import matplotlib, numpy, pyro, sympy, torch  # of which sympy has a filter of warnings

def state():
    return {
        "environment": dict(os.environ),
        "default type": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "validation": torch.distributions.Distribution._validate_args,
        "printing": str(vars(torch._tensor_str.PRINT_OPTS)),
        "hooks": len(torch.nn.modules.module._global_parameter_registration_hooks),
        "warnings": list(map(str, warnings.filters)),
        "warning": str(warnings.showwarning),
        "pictures": {k: str(v) for k, v in dict.items(matplotlib.rcParams) if k != "backend"},
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "handlers": [str(h) for h in logging.root.handlers],
        "pyro": str(pyro.settings.get()),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
        "hook": str(sys.excepthook),
        "errors": str(numpy.geterr()),
        "folder": os.getcwd(),
    }

def random_state():
    return [str(torch.get_rng_state().tolist()), str(numpy.random.get_state()[1]),
            str(random.getstate())]
"""

_IMPORTS = """
import pkgutil
from importlib import import_module
random_before, before = random_state(), state()
import ppl_vae
for module in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
after = state()
assert random_state() == random_before
print(json.dumps([before, after]))
"""

_USES = """
before = state()
from ppl_vae.cli import main
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    numpy.save("x.npy", numpy.random.rand(40, 4))
    words = ["--data", "arrays", "--data.path", "x.npy", "--likelihood", "normal", "--dim", "2"]
    assert main(["fit", *words, "--epochs", "20", "--out", "run"]) == 0
    assert main(["evaluate", "run", "--quick", "--metrics", "elbo,log_likelihood"]) == 0
    assert main(["sample", "run", "--n", "2", "--out", "drawn.png"]) == 0
    assert main(["sample", "gone", "--n", "2"]) == 2
after = state()
print(json.dumps([before, after]))
"""


@pytest.mark.parametrize("script", [_IMPORTS, _USES], ids=["import", "use"])
def test_no_setting_changes(script: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = [sys.executable, "-c", _SEEN + script]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    # scikit-learn keeps two OpenMP libraries from a quarrel; the data set of digits brings it
    if "environment" in changed:
        was, now = changed.pop("environment")
        assert {k for k in now if was.get(k) != now[k]} <= {
            "KMP_DUPLICATE_LIB_OK",
            "KMP_INIT_AT_FORK",
        }
        assert not was.keys() - now.keys()
    assert not changed


def _held() -> int:
    """The memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _slope(values: list[int]) -> float:
    """Growth to a measurement, by the medians of the second and the last third."""
    third = len(values) // 3
    middle, last = sorted(values[third : 2 * third]), sorted(values[2 * third :])
    return (last[len(last) // 2] - middle[len(middle) // 2]) / third


def _pair() -> VAE:
    return VAE(StandardNormal(2), Normal(2, (4,)), MeanFieldNormal((4,), 2))


def fits(number: int) -> list[int]:
    """Memory after each of so many trainings."""
    x, held = torch.rand(32, 4), []
    for _ in range(number):
        pair = _pair()
        pyro.clear_param_store()
        fit(pair.model, pair.guide, x, InfoVAE(MMD()), epochs=1, batch_size=16, progress=False)
        held.append(_held())
    return held


def steps(number: int, every: int) -> list[int]:
    """Memory after each of so many steps."""
    pair, x, held = _pair(), torch.rand(16, 4), []
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), InfoVAE(MMD()))
    for k in range(number):
        svi.step(x)
        if k % every == 0:
            held.append(_held())
    return held


@pytest.mark.slow
def test_memory_stays_flat_over_fits() -> None:
    """A training whose network were kept would hold 4.3 MB, its 1.1 million parameters."""
    assert _slope(fits(15)) < 4.3e6 / 10


@pytest.mark.slow
def test_memory_stays_flat_over_steps() -> None:
    """A step whose codes and their graph were kept would hold 16 x 512 x 4 bytes, and more."""
    assert _slope(steps(600, 20)) / 20 < 16 * 512 * 4 / 10
