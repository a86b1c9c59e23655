"""A pack runs in a process; what becomes of it when that dies."""
