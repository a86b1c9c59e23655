"""Scoring of studies: claims with criteria that can fail, verdicts, null models and summaries."""
