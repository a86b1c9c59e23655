"""HTML report of a sweep, and an index of all sweeps: `fanin report`.

Each module computes one section as plain data (cells, outcomes, provenance, theory check, init
comparison, figures). `page.py` renders them with the templates. A page needs no other file;
its downloads are in the same folder.
"""
