"""Runners that run packs in this process or in a pool of workers on this machine."""
