"""Encoders: conditional distributions q(z | x).

The auxiliary r(z | x) of the mutual auto-encoder is an encoder as well. It models which z made a
given x rather than which z a datum should get, so it wants no narrow start:

    MutualAutoencoder(auxiliary=MeanFieldNormal(size, dim, initial_scale=1.0), ...)
"""

if __name__ == "guides":
    raise ImportError("this folder is the package ppl_vae.guides: import it by that name")

from ppl_vae.guides.box import UniformBox
from ppl_vae.guides.deterministic import Deterministic
from ppl_vae.guides.encoder import Encoder
from ppl_vae.guides.flow import Flow
from ppl_vae.guides.implicit import Implicit
from ppl_vae.guides.ladder import Ladder
from ppl_vae.guides.normal import FullCovarianceNormal, LowRankNormal, MeanFieldNormal
from ppl_vae.guides.simplex import OneHotCategorical, RelaxedCategorical
from ppl_vae.guides.sphere import VonMisesFisher

__all__ = [
    "Deterministic",
    "Encoder",
    "Flow",
    "FullCovarianceNormal",
    "Implicit",
    "Ladder",
    "LowRankNormal",
    "MeanFieldNormal",
    "OneHotCategorical",
    "RelaxedCategorical",
    "UniformBox",
    "VonMisesFisher",
]
