"""`python -m ppl_vae` and the command `ppl-vae`."""

import sys

from ppl_vae.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
