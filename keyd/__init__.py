"""keyd: the signing daemon that takes private keys out of AI agents."""

__version__ = "0.1.0"
