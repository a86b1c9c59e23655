"""One page about a sweep, and an index of all: `python -m analysis.report`.

What is told is gathered in one room each (launches, cells, theory, figures, failures, commands);
`page.py` and `index.py` put it into the templates. A page needs nothing but itself.
"""
