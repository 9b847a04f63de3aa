"""`python -m fuzz.one TARGET DIRECTORY... OPTION...`: one target under atheris, with the options of libFuzzer."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keyd", "fuzz"]):
    from fuzz import targets
    from fuzz.handlers import close

if __name__ == "__main__":
    target = targets.TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    try:
        atheris.Fuzz()
    finally:
        close()
