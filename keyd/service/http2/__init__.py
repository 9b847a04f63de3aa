"""The transport ``http2``: one ASGI application for gRPC, gRPC-Web, Connect and JSON, on an HTTP/2 server inside the daemon's event loop."""
