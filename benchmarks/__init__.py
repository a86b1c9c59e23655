"""Speed, side by side in one run with what people use today; docs/performance.md keeps it."""
