"""Configurations: names of classes and their settings, read off signatures."""

from ppl_vae.config.names import BadInput
from ppl_vae.config.schema import Schema

__all__ = ["BadInput", "Schema"]
