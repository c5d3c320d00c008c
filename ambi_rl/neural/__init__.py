"""Learned codecs over torch: transforms, priors and quantization that agents and decoders share."""
