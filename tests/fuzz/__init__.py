"""Random input of every kind: the library refuses it in its own words, or takes it."""
