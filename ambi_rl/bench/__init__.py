"""Measuring codecs: peers, rate-distortion curves, tables and pictures of decisions."""
