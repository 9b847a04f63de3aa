"""`keyd demo`: the main job on real input, in separate processes.

A daemon holds the key. A resource knows the daemon's JWKS URL and verifies with the ``http-message-signatures`` library, none of
it keyd's code. An agent holds no key and calls the resource through the ``httpx`` adapter. The key rotates under traffic.
"""

from keyd.demo.conductor import run

__all__ = ["run"]
