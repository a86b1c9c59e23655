"""The sweep runner: a config becomes measurements."""

import os

# Otherwise the last bits of a matrix product depend on where its factors lie in memory, and so a
# cell's bits on the cells it is stacked with. MKL reads this once, at its first call in a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
