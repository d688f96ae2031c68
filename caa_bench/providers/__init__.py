"""Steered models for other harnesses: a name and a few arguments of theirs go in, an API object of theirs comes out."""
