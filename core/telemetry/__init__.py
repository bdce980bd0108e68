"""What can be seen of a running Trivium: figures that the parts keep, and the requests that log lines belong to."""
