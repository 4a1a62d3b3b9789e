"""The command `ppl-vae`."""

from ppl_vae.cli.main import main

__all__ = ["main"]
