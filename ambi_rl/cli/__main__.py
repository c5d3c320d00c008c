"""`python -m ambi_rl.cli`, for where the `ambi` script is not on the path."""

from ambi_rl.cli import main

main()
