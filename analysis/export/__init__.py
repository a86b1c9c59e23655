"""Export of a sweep's tables to CSV, Parquet and TensorBoard: `fanin export NAME --to FORMAT`."""
