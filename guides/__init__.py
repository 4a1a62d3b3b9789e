"""Encoders: conditional distributions q(z | x), and the auxiliary r(z | x)."""

if __name__ == "guides":
    raise ImportError("this folder is the package ppl_vae.guides: import it by that name")

from ppl_vae.guides.deterministic import Deterministic
from ppl_vae.guides.encoder import Encoder
from ppl_vae.guides.normal import FullCovarianceNormal, MeanFieldNormal

__all__ = ["Deterministic", "Encoder", "FullCovarianceNormal", "MeanFieldNormal"]
