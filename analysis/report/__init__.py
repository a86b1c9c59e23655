"""One page about a sweep, and an index of all: `python -m analysis.report`.

Each module gathers a part as plain data (cells, outcomes, provenance, theory, comparison, figures);
`page.py` puts them into the templates. A page needs nothing but itself.
"""
