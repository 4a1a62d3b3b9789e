"""What memory draws for ArviZ take, against what they are themselves.

    PPL_VAE_DATA=DATA python benchmarks/draws.py [--images 2000] [--draws 100]

A VAE of MNIST (784 - 400 - 10, not trained, whose draws are as large) is given to `to_arviz` with
all its groups. Prints the size of the result and by how much the process's memory grew at most,
after a call on few images that loads what is loaded once.
"""

import argparse
import os
import resource

import torch

from ppl_vae import VAE
from ppl_vae.data import MNIST
from ppl_vae.diagnostics import to_arviz
from ppl_vae.guides import MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.priors import StandardNormal

GIB = 2**30


def peak() -> float:
    """The most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = MNIST(os.environ.get("PPL_VAE_DATA", "data"), limit=max(options.images, 100))
    vae = VAE(StandardNormal(10), Bernoulli(10, data.size), MeanFieldNormal(data.size, 10))
    x = torch.as_tensor(data.train[: options.images])
    to_arviz(vae.model, vae.guide, x[:20], draws=10, seed=0)
    before = peak()
    made = to_arviz(vae.model, vae.guide, x, draws=options.draws, seed=0)
    groups = made.children.values() if hasattr(made, "children") else made.values()
    size = sum(group.nbytes for group in groups) / GIB
    grown = peak() - before
    print(
        f"{options.images} images, {options.draws} draws: a result of {size:.2f} GiB, "
        f"{grown:.2f} GiB of memory at most"
    )
    return {"result": size, "memory": grown}


if __name__ == "__main__":
    main()
