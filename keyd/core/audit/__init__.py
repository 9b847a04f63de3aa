"""The audit trail: who had what signed, chained, signed from time to time, and on record before any signature leaves.

Submodules: ``record`` (a decision as a line), ``trail`` (what the daemon writes), ``trail_file`` and ``sinks`` (where to),
``tail`` (where it ended), ``checkpoints`` and ``key`` (its signed heads), ``files`` and ``verify`` (reading it).
"""
