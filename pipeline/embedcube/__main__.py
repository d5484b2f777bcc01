"""`python -m embedcube` is the command `embedcube`."""

from embedcube.cli.verbs import main

main()
