"""Benchmarks of keyd. ``python benchmarks`` says what there is; docs/performance.md has the figures.

- ``run`` measures the goals, one module each in ``goals``, and ``report`` writes them down;
- ``cost``, ``flood``, ``stores``, ``audit`` and ``reading`` look at one part each;
- ``profile`` says where the time goes, ``compare`` holds two commits against each other;
- ``load`` drives h2load, ``daemon`` runs keyd, ``peers`` what it is compared with, ``payload`` is what is signed, ``machine`` reads the
  kernel's clocks, ``figures`` does the sums, and ``calls``, ``victim``, ``watchers`` and ``unguarded`` are processes of their own.
"""
