"""Words for the labels of options and their values."""

from __future__ import annotations

import re

WORDS = {
    "he_normal": "He",
    "he_uniform": "He (uniform)",
    "xavier_normal": "Xavier",
    "xavier_uniform": "Xavier (uniform)",
    "lecun_normal": "LeCun",
    "lecun_uniform": "LeCun (uniform)",
    "pytorch_default": "PyTorch default",
    "lsuv": "LSUV",
    "relu": "ReLU",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mlp": "MLP",
    "two_layer": "two layers",
    "alexnet": "AlexNet",
    "resnet": "ResNet",
    "vgg": "VGG",
}
DISTRIBUTIONS = re.compile(r"\b(uniform|normal) (a|b|mean|std)=(\S+) (a|b|mean|std)=(\S+)")
TOKEN = re.compile(r"(?:[\[({].*?[\])}]|\S)+")  # spaces inside brackets do not end it


def in_words(label: str) -> str:
    """Write options and their values in words.

    >>> in_words("he_normal"), in_words("uniform a=0.0 b=1.0"), in_words("normal mean=0 std=0.1")
    ('He', 'U(0, 1)', 'N(0, 0.1²)')
    >>> in_words("normal std=0.1"), in_words("mnist alexnet dense=64 width=8")
    ('normal, std 0.1', 'MNIST, AlexNet, dense 64, width 8')
    """
    words = ""
    for token in TOKEN.findall(DISTRIBUTIONS.sub(_distribution, label)):
        separate = words and ("=" in token or token in WORDS)
        text = WORDS.get(token, token.replace("=", " ", 1))
        words += f"{', ' if separate else ' '}{text}"
    return words.strip()


def _distribution(match: re.Match[str]) -> str:
    """Write a distribution with both parameters as U(a, b) or N(mean, std²)."""
    name, *rest = match.groups()
    values = dict(zip(rest[::2], map(_number, rest[1::2]), strict=True))
    if name == "uniform" and values.keys() == {"a", "b"}:
        return f"U({values['a']}, {values['b']})"
    if name == "normal" and values.keys() == {"mean", "std"}:
        return f"N({values['mean']}, {values['std']}²)"
    return match.group()


def _number(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text
