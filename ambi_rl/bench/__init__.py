"""Measuring codecs: peers, rate-distortion curves, tables and pictures of decisions."""

import os

# NumPy's matrix products, which SSIM consists of, gain nothing from a second thread, and where the cores are
# busy they wait for it many times as long as they compute. It is read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
