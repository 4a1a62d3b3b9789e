"""Data sets by name, each wholly in memory: `(n, *size)` tensors for training and for testing.

Images have shape `(1, height, width)` and values in [0, 1].
"""

from ppl_vae.data.arrays import Arrays
from ppl_vae.data.changed import Binarized, PartlyLabelled
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.factors import FactorData, FadingSquares, Sprites
from ppl_vae.data.folder import Folder
from ppl_vae.data.images import MNIST, Digits, FashionMNIST
from ppl_vae.data.table import Table
from ppl_vae.data.toys import GaussianMixture, TwoPoints

__all__ = [
    "MNIST",
    "Arrays",
    "Binarized",
    "Dataset",
    "Digits",
    "FactorData",
    "FadingSquares",
    "FashionMNIST",
    "Folder",
    "GaussianMixture",
    "PartlyLabelled",
    "Sprites",
    "Table",
    "TwoPoints",
]
