"""What keyd is about: keys, their lifecycle, what may be signed. No gRPC, no HTTP, no SDK."""
