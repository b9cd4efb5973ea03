"""``python -m fedsyn`` is the command line of ``fedsyn``."""

from fedsyn.cli import main

main()
