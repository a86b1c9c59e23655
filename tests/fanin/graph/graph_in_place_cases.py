"""Functions that change tensors and their views in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graph_cases import Case, Lambda


def _relu_after_view(x):
    x = x * 1.5
    first, flat = x[:, :2], x.view(len(x), -1)
    x.relu_()
    return first.sum((1, 2, 3)) + flat.sum(1)


def _change_of_a_view(x):
    y = x * 1.5
    y[:, :2].mul_(3)
    return y


def _view_of_another_part(x):
    y = x * 1.5
    first, last = y[:, :2], y[:, 2:]
    first.relu_()
    return torch.cat([last, y[:, :2]], 1)


def _augmented_slice(x):
    y = x.clone()
    y[:, ::2] += x[:, 1::2]
    return y


def _filled_buffer(x):
    y = torch.zeros_like(x)
    y[:, :2] = x[:, 2:]
    return y


def _old_value_kept(x):
    y = x * 1.5
    before = y.clone()
    y.add_(1.0)
    return y * before


def _changed_constant(x):
    mask = torch.zeros(1, 4, 1, 1, dtype=x.dtype)
    mask[:, 0] = 1
    return x * mask


def _data(x):
    y = torch.ones(4, 8, 8, dtype=x.dtype)
    y.data.mul_(2)
    return x * y


IN_PLACE = {
    "views of a changed tensor": Case(
        lambda: Lambda(_relu_after_view),
        "add(sum(getitem(relu(mul(x)))), sum(reshape(relu(mul(x)))))",
    ),
    "change of a view": Case(
        lambda: Lambda(_change_of_a_view), "overwrite(mul(x), mul(getitem(mul(x))))"
    ),
    "view of another part": Case(
        lambda: Lambda(_view_of_another_part),
        "cat(getitem(mul(x)), getitem(overwrite(mul(x), relu(getitem(mul(x))))))",
    ),
    "slice +=": Case(
        lambda: Lambda(_augmented_slice),
        "setitem(overwrite(clone(x), add(getitem(clone(x)), getitem(x))),"
        " add(getitem(clone(x)), getitem(x)))",
    ),
    "slices of zeros": Case(lambda: Lambda(_filled_buffer), "setitem(c, getitem(x))"),
    "old value kept in a clone": Case(
        lambda: Lambda(_old_value_kept), "mul(add(mul(x)), clone(mul(x)))"
    ),
    "changed constant": Case(lambda: Lambda(_changed_constant), "mul(x, c)"),
    "data of a constant": Case(lambda: Lambda(_data), "mul(x, c)"),
    "ReLU in place after a fork": Case(
        lambda: Lambda(lambda x: (lambda y: (y + 1) - F.relu_(y) * y)(x * 2)),
        "sub(add(mul(x)), mul(relu(mul(x))))",
    ),
}
