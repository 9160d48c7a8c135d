"""`python -m kaggleops`: the command where its script is not on the path."""

from kaggleops.cli import main

main()
