"""`python -m gapcam` is the `gapcam` command."""

from gapcam.cli import main

main()
