"""What the worker processes of one daemon share: how they talk to whoever supervises them, and through that to each other."""
