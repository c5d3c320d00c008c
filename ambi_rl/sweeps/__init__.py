"""Many runs: sweeps and studies that can be interrupted, and what `ambi runs` tells about them."""
