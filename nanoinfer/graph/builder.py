"""Builder: makes a graph from a network that is written as calls of torch modules."""

from __future__ import annotations

from collections.abc import Iterable

from .ir import INPUT, Graph, Node, Value
from .windows import SAME


class Builder:
    """A graph under construction; tensors are declared as the operators that use them are added.

    An architecture adds its operators in torch's registration order, so that the tensors come in the order of a
    state dict. Every method that adds an operator takes the name of the torch module ("blocks.0.0.conv_dw"), or
    "module:step" for a step that torch takes inside a module ("blocks.0.0.se:mean"), and returns the new value. Shapes
    are known only by their channels here, and `ops.infer_shapes` checks the rest.

    channels: of the input. kind: the torch class of the network. padding, eps: those of every conv2d and batch_norm
    that does not give its own.
    """

    def __init__(self, channels: int = 3, kind: str = "Network", *, padding: int | str | None = None, eps=1e-5):
        self.padding, self.eps = padding, eps
        self.nodes, self.parameters, self.buffers, self.modules = [], {}, {}, {}
        self.calls, self.kinds = [], {"": kind}
        self.input = Value(INPUT, channels)
        self.names = {INPUT}

    def finish(self, output: Value, features: Value) -> Graph:
        """The graph that returns `output`, checked; `features` is the value that forward_features returns."""
        tables = self.parameters, self.buffers, self.modules
        graph = Graph(tuple(self.nodes), (output.name,), *tables, features.name, INPUT, tuple(self.calls), self.kinds)
        return graph.check()

    def module(self, name: str, value: Value, kind: str | None = None) -> Value:
        """Record that a run of torch module `name` returns `value`, and return it.

        A composite module is recorded after its children. `kind` is the module's torch class, for modules whose
        operator does not tell.
        """
        self.modules[name] = value.name
        if kind:
            self.kinds[name] = kind
        # A run is recorded once, although BatchNormAct2d computes before its child and a module may be named twice.
        start = len(self.calls)
        while start and self.calls[start - 1][0].startswith((f"{name}.", f"{name}:")):
            start -= 1
        named_before = start and self.calls[start - 1][0] == name
        if named_before and (start < len(self.calls) or self.calls[-1][1] == value.name):
            del self.calls[start - 1]
        self.calls.append((name, value.name))
        return value

    def parameter(self, name: str, *shape: int) -> str:
        """Declare a trainable tensor and return its name.

        Raises ValueError if a size is below 1, as a tiny width or num_classes=0 would make it.
        """
        if min(shape) < 1:
            raise ValueError(f"{name} would have shape {shape}; every size must be at least 1")
        self.parameters[name] = shape
        return name

    def buffer(self, name: str, *shape: int) -> str:
        """Declare a tensor that is stored but not trained, and return its name."""
        self.buffers[name] = shape
        return name

    def add(self, op: str, inputs: Iterable[Value], channels: int, name: str, tensors=None, **attributes) -> Value:
        """Append an operator with `channels` output channels; `tensors` maps roles to declared names.

        The new value is called `name`, with ":2", ":3" behind it if a module runs several times.
        """
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}:{count}"
        self.names.add(unique)
        self.nodes.append(Node(op, tuple(value.name for value in inputs), unique, tensors or {}, attributes))
        value = Value(unique, channels)
        if ":" not in name:
            return self.module(name, value)
        self.calls.append((name, unique))
        return value

    def conv2d(self, x, name, channels, window, *, stride=1, padding=None, groups=1, bias=False) -> Value:
        """torch.nn.Conv2d; weight (channels, in / groups, window, window).

        padding: pixels, SAME (see `windows`), or None for the builder's own, and by default (window - 1) // 2.
        """
        padding = self.padding if padding is None else padding
        tensors = {"weight": self.parameter(f"{name}.weight", channels, x.channels // groups, window, window)}
        if bias:
            tensors["bias"] = self.parameter(f"{name}.bias", channels)
        if padding is None or (padding == SAME and stride == 1 and window % 2):  # the same at every size
            padding = (window - 1) // 2
        return self.add("conv2d", [x], channels, name, tensors, stride=stride, padding=padding, groups=groups)

    def batch_norm(self, x, name) -> Value:
        """torch.nn.BatchNorm2d in eval mode: weight, bias, running mean and variance of one number a channel."""
        tensors = {role: self.parameter(f"{name}.{role}", x.channels) for role in ("weight", "bias")}
        for role in ("running_mean", "running_var"):
            tensors[role] = self.buffer(f"{name}.{role}", x.channels)
        return self.add("batch_norm", [x], x.channels, name, tensors, eps=self.eps)

    def layer_norm(self, x, name, eps=1e-5) -> Value:
        """torch.nn.LayerNorm over the last axis of (N, T, D); weight and bias (D,)."""
        tensors = {role: self.parameter(f"{name}.{role}", x.channels) for role in ("weight", "bias")}
        return self.add("layer_norm", [x], x.channels, name, tensors, eps=eps)

    def linear(self, x, name, features, weight=None, bias=None) -> Value:
        """torch.nn.Linear over the last axis; weight (features, in), bias (features,).

        `weight` and `bias` are the tensors' names if they are not `name`.weight and `name`.bias.
        """
        tensors = {
            "weight": self.parameter(weight or f"{name}.weight", features, x.channels),
            "bias": self.parameter(bias or f"{name}.bias", features),
        }
        return self.add("linear", [x], features, name, tensors)

    def activation(self, x, activation, name) -> Value:
        """ "relu", "relu6", "hard_swish", "hard_sigmoid" or "gelu" (by erf), as in torch.nn.functional."""
        return self.add("activation", [x], x.channels, name, activation=activation)

    def residual(self, x, shortcut, name) -> Value:
        """x + shortcut, both of one shape; ValueError if their channels differ."""
        if x.channels != shortcut.channels:
            raise ValueError(f"{name}: a residual of {shortcut.channels} channels cannot be added to {x.channels}")
        return self.add("add", [x, shortcut], x.channels, name)

    def scale(self, x, gate, name) -> Value:
        """x (N, C, H, W) * gate (N, C, 1, 1), the last step of squeeze-and-excite; ValueError if channels differ."""
        if x.channels != gate.channels:
            raise ValueError(f"{name}: a gate of {gate.channels} channels cannot scale {x.channels}")
        return self.add("scale", [x, gate], x.channels, name)

    def max_pool2d(self, x, name, window, stride, padding) -> Value:
        """torch.nn.MaxPool2d with a square window; padding counts as -inf."""
        return self.add("max_pool2d", [x], x.channels, name, window=window, stride=stride, padding=padding)

    def average_pool2d(self, x, name, window) -> Value:
        """torch.nn.AvgPool2d(window): the means of squares that lie side by side; (N, C, H, W) -> (N, C, H/w, W/w)."""
        return self.add("average_pool2d", [x], x.channels, name, window=window, stride=window)

    def blur_pool2d(self, x, name, stride, window=3) -> Value:
        """timm's BlurPool2d: every `stride`th pixel of the image under a binomial filter, its border reflected."""
        return self.add("blur_pool2d", [x], x.channels, name, window=window, stride=stride)

    def global_max_pool(self, x, name) -> Value:
        """Maximum over H and W, kept as (N, C, 1, 1)."""
        return self.add("global_max_pool", [x], x.channels, name)

    def global_average_pool(self, x, name) -> Value:
        """Mean over H and W, kept as (N, C, 1, 1)."""
        return self.add("global_average_pool", [x], x.channels, name)

    def flatten(self, x, name) -> Value:
        """(N, C, 1, 1) -> (N, C)."""
        return self.add("flatten", [x], x.channels, name)

    def tokens(self, x, class_token, position, name) -> Value:
        """Patches (N, D, h, w) -> (N, 1 + h w, D): class token first, then patches by row, plus position embeddings.

        `class_token` (1, 1, D) and `position` (1, 1 + h w, D) name declared parameters.
        """
        return self.add("tokens", [x], x.channels, name, {"class_token": class_token, "position": position})

    def attention(self, qkv, heads, name) -> Value:
        """softmax(q k^T / sqrt(d)) v for each head of d = D / heads: qkv (N, T, 3 D) -> (N, T, D).

        `qkv` holds queries, keys and values side by side, as torch.nn.MultiheadAttention's in_proj gives them.
        """
        return self.add("attention", [qkv], qkv.channels // 3, name, heads=heads)

    def select_token(self, x, index, name) -> Value:
        """Token `index` of x: (N, T, D) -> (N, D)."""
        return self.add("select_token", [x], x.channels, name, index=index)
