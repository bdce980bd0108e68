"""The socket through which whoever may open the store's files administers it while a process holds it."""
