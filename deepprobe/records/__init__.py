"""What is said about a layer: the spectrum with its status, and the tidy frame that carries it."""
