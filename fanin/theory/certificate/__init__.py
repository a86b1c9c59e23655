"""The init certificate: what theory says of every layer of a user's own network, on their images.

`certify` makes one, `verdicts` says which layers are unhealthy, `assert_healthy` is for someone's
CI, and `print_certificate` prints it.
"""

from fanin.theory.certificate.certificate import Certificate
from fanin.theory.certificate.certify import certify
from fanin.theory.certificate.printing import print_certificate
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, Predicted
from fanin.theory.certificate.verdicts import (
    Limits,
    UnhealthyInit,
    Verdict,
    assert_healthy,
    verdicts,
)

__all__ = [
    "Certificate",
    "LayerCertificate",
    "Limits",
    "OutputCertificate",
    "Predicted",
    "UnhealthyInit",
    "Verdict",
    "assert_healthy",
    "certify",
    "print_certificate",
    "verdicts",
]
