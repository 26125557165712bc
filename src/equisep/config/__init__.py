"""The configuration: its schema, its composition by Hydra, and what of it is a run's identity."""
