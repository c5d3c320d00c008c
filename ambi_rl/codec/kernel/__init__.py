"""The block kernel: prediction, transform, quantization and syntax, shared by encoder, decoder and environment."""
