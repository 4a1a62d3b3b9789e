"""What is known of a model and a guide, from Pyro and torch alone."""
