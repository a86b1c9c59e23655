"""Where packs run: in this process, or in a pool of workers on this machine."""
