"""Programs that load or read what is measured, on the load core. Each prints its figures as one line of JSON."""
