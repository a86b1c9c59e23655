"""The init certificate: predictions of every layer of a user's own network, on their images.

`certify` makes a `Certificate`, `assert_healthy` checks one in CI, `print_certificate` prints one.
"""

from fanin.theory.certificate.certificate import Certificate, print_certificate
from fanin.theory.certificate.certify import assert_healthy, certify
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, PredictedValue
from fanin.theory.certificate.verdicts import Limits, UnhealthyInit, Verdict, judge

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
