"""Where private keys live. One module per kind of store, all behind :mod:`backends.api`."""
