"""Print the table of docs/losses.md."""

from fanin.losses.table import markdown

print(markdown(), end="")
