"""Divergences of the aggregate posterior from the prior, a file each."""
