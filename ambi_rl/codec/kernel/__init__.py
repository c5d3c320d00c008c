"""The block kernel that encoder, decoder and environment share: prediction, transform, syntax."""
