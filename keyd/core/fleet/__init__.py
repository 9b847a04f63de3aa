"""What makes several processes with one database one keyd: the same time, the same keys, and one of them that plans."""
