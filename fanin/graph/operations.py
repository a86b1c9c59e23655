"""Table of operations: one name and one list of arguments for each, however it is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import batchnorm, instancenorm

from fanin.models.layers import LocalResponseNorm, MeanOnly, SeededDropout

# Other names of keyword arguments.
SYNONYMS = {
    **{"axis": "dim", "self": "input", "split_size": "split_size_or_sections"},
    **{"shape": "sizes", "size": "sizes", "repeats": "sizes", "tensor": "input"},
}
# True if a normalization uses the statistics of its input, which depends on the module's mode.
BATCH_STATISTICS = ("training", "use_input_stats")


@dataclass(frozen=True)
class Operation:
    """An operation and its spellings.

    Attributes
    ----------
    name
        The name of `Node.operation`.
    arguments
        Names in `Node.arguments`, with default values: `"input dim=None keepdim=False"`. A name
        such as `*sizes` collects positional arguments: `view(2, 3)` is the same as `view((2, 3))`.
    spellings
        Other names of the function, the method or the property, without underscores at the ends:
        `iadd` stands for `__iadd__`, `relu` for `torch.relu_` and `Tensor.relu_`.
    modules
        Classes of `torch.nn` that compute the same.
    """

    name: str
    arguments: str
    spellings: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module | None = None
    ) -> dict[str, Any]:
        """Return the arguments of a call by name; for a module also those of its constructor."""
        positional, values = list(args), dict(kwargs)
        bound: dict[str, Any] = {}
        for word in self.arguments.split():
            name, _, default = word.partition("=")
            synonym = next((n for n in values if SYNONYMS.get(n) == name), name)
            if name.startswith("*"):
                name = name[1:]
                synonym = next((n for n in values if SYNONYMS.get(n) == name), name)
                value = values.pop(synonym, tuple(positional))
                is_nested = len(value) == 1 and isinstance(value[0], tuple | list)
                bound[name] = tuple(value[0] if is_nested else value)
                positional.clear()
            elif positional:
                bound[name] = positional.pop(0)
            elif name in values or synonym in values:
                bound[name] = values.pop(name if name in values else synonym)
            elif module is not None and (name in BATCH_STATISTICS or hasattr(module, name)):
                bound[name] = _attribute(module, name)
            elif default:
                bound[name] = ast.literal_eval(default)
            else:
                raise TypeError(f"the argument {name} of {self.name} is missing")
        if positional or values:
            extra = ", ".join(values) or f"{len(positional)} positional"
            raise TypeError(f"{self.name} has other arguments than {self.arguments}: {extra}")
        return bound


def _attribute(module: nn.Module, name: str) -> Any:
    if name not in BATCH_STATISTICS:
        return getattr(module, name)
    if isinstance(module, instancenorm._InstanceNorm):
        return module.training or not module.track_running_stats
    return module.training or getattr(module, "running_mean", module) is None


CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
CONV_TRANSPOSE = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
RUNNING = "weight=None bias=None training=False momentum=0.1 eps=1e-5"
DROPOUT = "input p=0.5 training=True inplace=False"
AVG_POOL = (
    "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True"
    " divisor_override=None"
)
MAX_POOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"
ADAPTIVE_POOL = "input output_size return_indices=False"
REDUCTION = "input dim=None keepdim=False dtype=None"
VARIANCE = "input dim=None unbiased=True keepdim=False correction=None"
ATTENTION = "query key value attn_mask=None dropout_p=0.0 is_causal=False scale=None"
MULTI_HEAD = (
    "query key value key_padding_mask=None need_weights=True attn_mask=None"
    " average_attn_weights=True is_causal=False"
)
INTERPOLATE = (
    "input size=None scale_factor=None mode='nearest' align_corners=None"
    " recompute_scale_factor=None antialias=False"
)
INPLACE = "input inplace=False"
OTHER = "input other"


def _op(name: str, arguments: str, spellings: str = "", *modules: type[nn.Module]) -> Operation:
    return Operation(name, arguments, tuple(spellings.split()), modules)


_TABLE = (
    # Arithmetic. In rsub, rdiv, rpow and rmatmul the operands are exchanged: rsub is other - input.
    _op("add", "input other alpha=1", "iadd radd"),
    _op("sub", "input other alpha=1", "isub subtract"),
    _op("rsub", "input other alpha=1"),
    _op("mul", OTHER, "imul rmul multiply"),
    _op("div", "input other rounding_mode=None", "itruediv truediv divide true_divide"),
    _op("rdiv", OTHER, "rtruediv"),
    _op("pow", "input exponent", "ipow"),
    _op("rpow", OTHER),
    _op("matmul", OTHER, "mm bmm"),
    _op("rmatmul", OTHER),
    _op("maximum", OTHER),
    _op("minimum", OTHER),
    _op("neg", "input", "negative"),
    _op("abs", "input", "absolute"),
    _op("clamp", "input min=None max=None", "clip clamp_min"),
    _op("where", "condition input other"),
    _op("masked_fill", "input mask value"),
    _op("einsum", "equation *operands"),
    # Weight layers.
    _op("linear", "input weight bias=None", "", nn.Linear),
    _op("conv1d", CONV, "", nn.Conv1d),
    _op("conv2d", CONV, "", nn.Conv2d),
    _op("conv3d", CONV, "", nn.Conv3d),
    _op("conv_transpose1d", CONV_TRANSPOSE, "", nn.ConvTranspose1d),
    _op("conv_transpose2d", CONV_TRANSPOSE, "", nn.ConvTranspose2d),
    _op("conv_transpose3d", CONV_TRANSPOSE, "", nn.ConvTranspose3d),
    # Activations.
    _op("relu", INPLACE, "", nn.ReLU),
    _op("relu6", INPLACE, "", nn.ReLU6),
    _op("leaky_relu", "input negative_slope=0.01 inplace=False", "", nn.LeakyReLU),
    _op(
        "rrelu",
        "input lower=0.125 upper=0.3333333333333333 training=False inplace=False",
        "",
        nn.RReLU,
    ),
    _op("prelu", "input weight", "", nn.PReLU),
    _op("elu", "input alpha=1.0 inplace=False", "", nn.ELU),
    _op("celu", "input alpha=1.0 inplace=False", "", nn.CELU),
    _op("selu", INPLACE, "", nn.SELU),
    _op("gelu", "input approximate='none'", "", nn.GELU),
    _op("silu", INPLACE, "swish", nn.SiLU),
    _op("mish", INPLACE, "", nn.Mish),
    _op("tanh", "input", "", nn.Tanh),
    _op("sigmoid", "input", "special_expit expit", nn.Sigmoid),
    _op("logsigmoid", "input", "log_sigmoid", nn.LogSigmoid),
    _op("softplus", "input beta=1.0 threshold=20.0", "", nn.Softplus),
    _op("softsign", "input", "", nn.Softsign),
    _op("hardtanh", "input min_val=-1.0 max_val=1.0 inplace=False", "", nn.Hardtanh),
    _op("hardswish", INPLACE, "", nn.Hardswish),
    _op("hardsigmoid", INPLACE, "", nn.Hardsigmoid),
    _op("threshold", "input threshold value inplace=False", "", nn.Threshold),
    _op("glu", "input dim=-1", "", nn.GLU),
    _op("softmax", "input dim=None _stacklevel=3 dtype=None", "", nn.Softmax),
    _op("log_softmax", "input dim=None _stacklevel=3 dtype=None", "", nn.LogSoftmax),
    # Normalization.
    _op("batch_norm", f"input running_mean running_var {RUNNING}", "", batchnorm._BatchNorm),
    _op(
        "instance_norm",
        "input running_mean=None running_var=None weight=None bias=None use_input_stats=True"
        " momentum=0.1 eps=1e-5",
        "",
        instancenorm._InstanceNorm,
    ),
    _op("layer_norm", "input normalized_shape weight=None bias=None eps=1e-5", "", nn.LayerNorm),
    _op("rms_norm", "input normalized_shape weight=None eps=None", "", nn.RMSNorm),
    _op("group_norm", "input num_groups weight=None bias=None eps=1e-5", "", nn.GroupNorm),
    _op(
        "local_response_norm",
        "input size alpha=1e-4 beta=0.75 k=1.0",
        "",
        *(nn.LocalResponseNorm, LocalResponseNorm),
    ),
    _op("mean_only", "input", "", MeanOnly),
    _op("normalize", "input p=2.0 dim=1 eps=1e-12 out=None"),
    # Dropout.
    _op("dropout", DROPOUT, "", nn.Dropout, SeededDropout),
    _op("dropout1d", DROPOUT, "", nn.Dropout1d),
    _op("dropout2d", DROPOUT, "", nn.Dropout2d),
    _op("dropout3d", DROPOUT, "", nn.Dropout3d),
    _op("alpha_dropout", DROPOUT, "", nn.AlphaDropout),
    _op("feature_alpha_dropout", DROPOUT, "", nn.FeatureAlphaDropout),
    # Pooling.
    _op("avg_pool1d", AVG_POOL, "", nn.AvgPool1d),
    _op("avg_pool2d", AVG_POOL, "", nn.AvgPool2d),
    _op("avg_pool3d", AVG_POOL, "", nn.AvgPool3d),
    _op("max_pool1d", MAX_POOL, "max_pool1d_with_indices", nn.MaxPool1d),
    _op("max_pool2d", MAX_POOL, "max_pool2d_with_indices", nn.MaxPool2d),
    _op("max_pool3d", MAX_POOL, "max_pool3d_with_indices", nn.MaxPool3d),
    _op("adaptive_avg_pool1d", "input output_size", "", nn.AdaptiveAvgPool1d),
    _op("adaptive_avg_pool2d", "input output_size", "", nn.AdaptiveAvgPool2d),
    _op("adaptive_avg_pool3d", "input output_size", "", nn.AdaptiveAvgPool3d),
    _op("adaptive_max_pool1d", ADAPTIVE_POOL, "", nn.AdaptiveMaxPool1d),
    _op("adaptive_max_pool2d", ADAPTIVE_POOL, "", nn.AdaptiveMaxPool2d),
    _op("adaptive_max_pool3d", ADAPTIVE_POOL, "", nn.AdaptiveMaxPool3d),
    # Reductions.
    _op("mean", REDUCTION),
    _op("sum", REDUCTION),
    _op("amax", "input dim=None keepdim=False"),
    _op("amin", "input dim=None keepdim=False"),
    _op("var", VARIANCE),
    _op("std", VARIANCE),
    # Several tensors. `item` takes one tensor out of a result such as that of `chunk`.
    _op("cat", "tensors dim=0", "concat concatenate"),
    _op("stack", "tensors dim=0"),
    _op("chunk", "input chunks dim=0"),
    _op("split", "input split_size_or_sections dim=0", "split_with_sizes"),
    _op("unbind", "input dim=0"),
    _op("item", "values *keys", "pick"),
    # Shape.
    _op("reshape", "input *sizes", "view"),
    _op("reshape_as", OTHER, "view_as"),
    _op("flatten", "input start_dim=0 end_dim=-1", "", nn.Flatten),
    _op("unflatten", "input dim *sizes"),
    _op("permute", "input *dims"),
    _op("transpose", "input dim0=-2 dim1=-1", "swapaxes swapdims t T mT"),
    _op("movedim", "input source destination", "moveaxis"),
    _op("squeeze", "input dim=None"),
    _op("unsqueeze", "input dim"),
    _op("expand", "input *sizes"),
    _op("expand_as", OTHER),
    _op("repeat", "input *sizes"),
    _op("flip", "input *dims"),
    _op("roll", "input shifts dims=None"),
    _op("pad", "input pad mode='constant' value=None"),
    _op("getitem", "input index"),
    _op("setitem", "input index value"),
    _op("interpolate", INTERPOLATE, "", nn.Upsample),
    _op("pixel_shuffle", "input upscale_factor", "", nn.PixelShuffle),
    # No change of the values.
    _op("identity", "input", "", nn.Identity),
    _op("clone", "input memory_format=None"),
    _op("contiguous", "input memory_format=None"),
    _op("detach", "input", "data"),
    _op(
        "to",
        "input *options dtype=None device=None memory_format=None",
        "type_as float double half bfloat16",
    ),
    # Attention.
    _op("scaled_dot_product_attention", ATTENTION + " enable_gqa=False"),
    _op("multi_head_attention", MULTI_HEAD, "", nn.MultiheadAttention),
)

OPERATIONS = {operation.name: operation for operation in _TABLE}
"""All operations by name. To add an operation, add a line to the table."""

_BY_SPELLING = {
    spelling: operation
    for operation in _TABLE
    for spelling in (operation.name, *operation.spellings)
}


def find_operation(target: Any) -> Operation | None:
    """Return the operation of a module or function, None if it is not in the table."""
    if isinstance(target, nn.Module):
        return next((op for op in _TABLE if op.modules and isinstance(target, op.modules)), None)
    return _BY_SPELLING.get(function_name(target))


def operation_name(target: Any) -> str:
    """Return the operation's name; for others the name of the function or class."""
    operation = find_operation(target)
    if operation is not None:
        return operation.name
    if isinstance(target, nn.Module):
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(target).__name__).lower()
    return function_name(target)


def function_name(function: Any) -> str:
    """Return the name of a function, method, property or operator, without `_` at its ends.

    Examples
    --------
    >>> import torch
    >>> [function_name(f) for f in (torch.relu_, torch.Tensor.__rsub__, torch.ops.aten.add.Tensor)]
    ['relu', 'rsub', 'add']
    """
    name = getattr(function, "__name__", type(function).__name__)
    if name in ("__get__", "__set__"):  # a property
        name = getattr(function.__self__, "__name__", name)
    return name.partition(".")[0].strip("_") or name


def read_arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names in the table.

    Raises
    ------
    TypeError
        The operation is not in the table, or has other arguments.
    """
    operation = find_operation(target)
    if operation is None:
        raise TypeError(f"the operation {operation_name(target)} is not in the table OPERATIONS")
    return operation.bind(args, kwargs, target if isinstance(target, nn.Module) else None)
