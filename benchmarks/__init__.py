"""Speed, side by side in one run with what people use today; docs/appendix/performance.md keeps it."""
