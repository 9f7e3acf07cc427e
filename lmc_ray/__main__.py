"""`python -m lmc_ray`: the command line where its script is not on the path."""

from lmc_ray.cli import main

main()
