"""Metrics of a model/guide pair, each with its error and, where it is one, the bound it is.

Every function takes the generative program, the encoder program and rows of data (or codes that
`posterior_codes` made of them), runs in blocks, without gradients and in eval mode, and returns an
`Estimate` or a small record of them.
"""

from ppl_vae.evaluation.annealing import annealed_nll
from ppl_vae.evaluation.classifier import class_divergence, train_classifier
from ppl_vae.evaluation.codes import active_units, log_det, posterior_codes
from ppl_vae.evaluation.columns import column_errors
from ppl_vae.evaluation.disentanglement import dci, disentanglement, mig, sap
from ppl_vae.evaluation.distances import fid, kid
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.factor_vae import factor_vae_score
from ppl_vae.evaluation.geometry import path_length
from ppl_vae.evaluation.information import mutual_information, surgery
from ppl_vae.evaluation.likelihood import nll
from ppl_vae.evaluation.matching import full_mmd, mmd
from ppl_vae.evaluation.own_draws import log_weights
from ppl_vae.evaluation.probes import knn_probe, linear_probe, svm_probe
from ppl_vae.evaluation.samples import generate, reconstruction_error, sharpness
from ppl_vae.evaluation.terms import distortion, elbo, elbo_terms, rate
from ppl_vae.evaluation.usage import model_information, usage

__all__ = [
    "Estimate",
    "active_units",
    "annealed_nll",
    "class_divergence",
    "column_errors",
    "dci",
    "disentanglement",
    "distortion",
    "elbo",
    "elbo_terms",
    "factor_vae_score",
    "fid",
    "full_mmd",
    "generate",
    "kid",
    "knn_probe",
    "linear_probe",
    "log_det",
    "log_weights",
    "mig",
    "mmd",
    "model_information",
    "mutual_information",
    "nll",
    "path_length",
    "posterior_codes",
    "rate",
    "reconstruction_error",
    "sap",
    "sharpness",
    "surgery",
    "svm_probe",
    "train_classifier",
    "usage",
]
