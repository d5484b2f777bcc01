"""`python -m embedcube` is the command `embedcube`."""

from embedcube.cli import main

main()
