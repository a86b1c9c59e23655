"""Init certificate: predictions for every layer of a network on given images.

`certify` creates a `Certificate`, `print_certificate` prints it, and `assert_healthy` raises if a
layer is unhealthy, for use in tests.
"""

from fanin.theory.certificate.certificate import Certificate
from fanin.theory.certificate.certify import assert_healthy, certify
from fanin.theory.certificate.judge import Limits, judge
from fanin.theory.certificate.predicted_value import PredictedValue
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate
from fanin.theory.certificate.render import print_certificate
from fanin.theory.certificate.verdicts import UnhealthyInit, Verdict

__all__ = [
    "Certificate",
    "LayerCertificate",
    "Limits",
    "OutputCertificate",
    "PredictedValue",
    "UnhealthyInit",
    "Verdict",
    "assert_healthy",
    "certify",
    "judge",
    "print_certificate",
]
