"""Training of a cell, or of several cells as one program.

`loop` trains the networks of an engine (`engines`) on batches (`loader`), one `step` at a time;
`checkpoint` lets another process resume it to the bit.
"""
