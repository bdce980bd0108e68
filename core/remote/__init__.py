"""A core in another process, as one more `MessageService`: what to do when it is slow, away, or half away."""
