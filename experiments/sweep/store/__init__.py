"""Store of results: journals while a pack runs, Parquet when it has ended."""
