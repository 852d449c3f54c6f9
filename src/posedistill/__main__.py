"""``python -m posedistill`` is the command line."""

from posedistill.cli import main

main()
