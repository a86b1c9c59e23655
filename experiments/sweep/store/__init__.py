"""Where results lie: journals while a pack runs, Parquet when it has ended."""
