"""The invariants of the lifecycle, over random histories of two replicas that share a database and a backend."""
