"""The claims of the source papers and our own, each reproduced by `ppl-vae reproduce NAME`."""
