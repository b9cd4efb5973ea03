"""``python -m fedsyn``."""

from fedsyn.cli import main

main()
