"""The HTTP protocol, version 1 (docs/protocol.md): routes, documents, problems, bodies, access log."""
