"""Small modules as users write them, with the graph that each must give.

`CASES` has for each module the shape of one image, and the graph as a nested expression: the names
of `Node.operation` with their inputs. `x` is the input, `p` a parameter, `b` a buffer, `c` a
constant.
"""

from graph_in_place_cases import IN_PLACE
from graph_python_cases import PYTHON
from graph_residual_cases import RESIDUAL

CASES = {**RESIDUAL, **PYTHON, **IN_PLACE}
