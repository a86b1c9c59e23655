"""Training of one cell, or of a stack of cells.

`loop` trains the networks of an engine (`engines`) on batches (`loader`), one `step` at a time.
`checkpoint` saves training so that another process can resume it with bit-identical results.
"""
