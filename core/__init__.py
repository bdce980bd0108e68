"""The message logic of Trivium, free of every wire."""

VERSION = "0.1.0"
