"""Benchmarks of keyd. ``python benchmarks`` says what there is; docs/performance.md has the figures.

- ``run`` measures the goals, one module each in ``goals``, and ``report`` writes them down;
- ``cost``, ``path``, ``client``, ``workers``, ``scale``, ``flood``, ``stores``, ``audit`` and ``reading`` look at one part each; the goals use them;
- ``profile`` says where the time goes, ``compare`` holds two commits against each other;
- ``load`` drives h2load, ``callers`` drives clients in Python, ``daemon`` runs keyd, ``population`` fills it with keys, ``peers`` is what it is compared with,
  ``payload`` is what is signed, ``machine`` reads the kernel's clocks, ``figures`` does the sums, and ``calls``, ``victim``, ``watchers`` and
  ``unguarded`` are processes of their own.
"""
