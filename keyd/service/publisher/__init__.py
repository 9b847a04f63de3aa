"""Serves what is published from a process of its own, which has no key, so that a flood of requests takes no time of who signs.

The daemon keeps the listening socket and starts the publisher, which accepts. Over a pair of sockets the publisher asks for pages, and
keeps each for as long as the daemon said, at most until the daemon says that something changed, or has said nothing for a while.
"""
