"""The gate: what stands between the public sockets and the gRPC server, and says who is at the other end."""
