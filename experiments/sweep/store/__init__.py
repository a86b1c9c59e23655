"""Store of results: journals while a pack runs, Parquet tables after it has ended."""
