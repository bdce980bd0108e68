"""API keys as a whole: the command, the socket, both doors."""
