"""The Hydra configuration of training, as a package so that it is found wherever it is installed."""
