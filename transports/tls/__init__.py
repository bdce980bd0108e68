"""TLS of the doors: what their certificates are, and who a client is by its own."""
