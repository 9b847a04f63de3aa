"""Runs the command line: ``python -m keyd``."""

from keyd.cli import main

if __name__ == "__main__":
    main()
