"""HTTP/1.1 in bytes: connections, the parser, bodies, TLS. Knows no dialect."""
