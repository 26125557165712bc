"""A trained network under perturbation."""
