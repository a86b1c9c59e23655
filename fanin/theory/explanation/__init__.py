"""The waterfall from He's number to the measured one, a factor per lifted assumption.

`explain` makes an `Explanation`; `variants` holds the networks and moments with an assumption put
back in place.
"""

from fanin.theory.explanation.explain import STEPS, Explanation, explain

__all__ = ["STEPS", "Explanation", "explain"]
