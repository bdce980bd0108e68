"""The admin listener: metrics, probes and the log level, for those who run the service."""
