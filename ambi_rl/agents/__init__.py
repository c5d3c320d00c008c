"""Torch policies, their training algorithms, imitation of the search, and export to a bundle."""
