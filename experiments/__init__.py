"""The sweep runner: run the cells of a grid and store their measurements."""

import os

# Without this setting the last bits of a matrix product depend on the memory addresses of its
# factors, so a cell's result would depend on the other cells in its stack. MKL reads the variable
# once, at its first call in a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
