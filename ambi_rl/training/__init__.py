"""The training run: from a configuration to a run folder."""
