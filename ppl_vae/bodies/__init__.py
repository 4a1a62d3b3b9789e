r"""Network bodies: the deterministic part of encoders and likelihoods.

A *body factory* is any callable `(inputs, outputs) -> nn.Module`, both of them event shapes
(`torch.Size`). The module it returns maps a tensor of shape (n, *inputs) to one of shape
(n, *outputs), for one batch dimension n. The classes here are such factories themselves, so the
same name serves an encoder (an image to a vector) and a decoder (a vector to an image):

    MeanFieldNormal(size, dim, body=DCGAN)
    Bernoulli(dim, size, body=partial(MLP, hidden=(300,), activation="tanh"))

and a network of the user's own is `body=lambda inputs, outputs: net`.
"""

from ppl_vae.bodies.convolutional import DCGAN, ResNet
from ppl_vae.bodies.masked import Masked
from ppl_vae.bodies.mlp import MLP

__all__ = [
    "DCGAN",
    "MLP",
    "Masked",
    "ResNet",
]
