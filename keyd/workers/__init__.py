"""Several processes as one daemon: one that accepts connections and supervises, and workers that serve them."""
