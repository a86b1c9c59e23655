"""Print the table of docs/losses.md."""

from experiments.losses.table import markdown

print(markdown(), end="")
