"""The standalone codec: numpy, numba and pillow only; no torch, no Gymnasium, no Stable-Baselines3."""
