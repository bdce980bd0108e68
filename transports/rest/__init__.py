"""The REST door: HTTP/1.1 and HTTP/2 through Starlette and Hypercorn."""
