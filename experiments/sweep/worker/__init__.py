"""The worker's side: a pack runs in a process, and what becomes of its journal when that dies."""
