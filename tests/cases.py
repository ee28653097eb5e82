"""Networks of one operator or two that tests of several rooms run."""

from tests.guarded import network, product

# (window, stride, padding, height, width): borders on all sides and on some, images smaller than the window
WINDOWS = [
    (1, 1, 0, 7, 4),
    (1, 2, 0, 7, 4),
    (1, 1, 1, 2, 2),
    (3, 1, 1, 4, 6),
    (3, 2, 1, 7, 9),
    (3, 2, 0, 7, 9),
    (3, 1, 1, 1, 1),
    (5, 1, 2, 8, 4),
    (5, 2, 2, 3, 2),
    (7, 2, 3, 9, 5),
    (7, 1, 3, 2, 3),
    (4, 4, 0, 8, 12),
    (3, 2, "same", 8, 7),
    (5, 2, "same", 5, 12),
    (3, 2, "same", 1, 2),
]


def window_id(case):
    return "k{}s{}p{}-{}x{}".format(*case)


def inverted_residual(stem=(1, 1), window=(3, 1), expanded=40, out=24, residual=False, width=1, padding=None):
    """(window, stride) of the stem and of the convolution with groups of `width`, then a pointwise one."""

    def add(builder, x):
        y = builder.conv2d(x, "e", expanded, stem[0], stride=stem[1], padding=padding)
        y = builder.activation(y, "relu6", "ea")
        y = builder.conv2d(y, "d", expanded, window[0], stride=window[1], groups=expanded // width, padding=padding)
        y = builder.conv2d(builder.activation(y, "hard_swish", "da"), "p", out, 1)
        return builder.residual(y, x, "r") if residual else y

    return add


def gated(builder, x):
    """Squeeze-and-excite before a pointwise convolution with a residual, as the passes fuse them."""
    gate = builder.activation(builder.global_average_pool(x, "m"), "hard_sigmoid", "g")
    y = builder.conv2d(builder.scale(x, gate, "s"), "c", x.channels, 1, bias=True)
    return builder.residual(y, x, "r")


NETWORKS = {
    "gated weights": network((3, 37, 7, 9), gated),
    "gated input": network((3, 37, 3, 5), gated),
    "conv3x3": product((3, 5, 9, 11), 48, 3, "relu", stride=2, bias=True),
    "conv7x7": product((3, 3, 17, 13), 24, 7, stride=2),
    "pointwise": product((3, 40, 5, 9), 40, 1, "hard_swish", residual=True, bias=True),
    "strassen": product((3, 256, 8, 16), 256, 1, "hard_swish", residual=True, bias=True),
    "strassen of split pairs": product((3, 320, 7, 7), 320, 1, "relu", residual=True, bias=True),
    "patches": product((3, 3, 12, 20), 40, 4, stride=4, padding=0),
    "strassen of tokens": product((3, 50, 256), 320, activation="gelu"),
    "linear": product((3, 29, 50), 80),
    "head": product((3, 130), 32, activation="gelu"),
    "wide head": product((3, 70), 50 * 16, bias=True),
    "depthwise": product((3, 48, 9, 14), 48, 3, "relu6", groups=48, residual=True, bias=True),
    "depthwise same": product((3, 48, 8, 18), 48, 3, "relu6", groups=48, stride=2, padding="same", bias=True),
    "groups4": product((3, 48, 9, 7), 48, 3, groups=12, stride=2),
    "groups8": product((3, 48, 5, 17), 48, 3, groups=6),
    "groups64": product((3, 256, 3, 3), 256, 3, groups=4),
    "groups16": product((3, 48, 5, 8), 48, 3, groups=3),
    "average_pool2d": network((3, 48, 9, 6), lambda b, x: b.average_pool2d(x, "p", 2)),
    "blur_pool2d": network((3, 48, 9, 6), lambda b, x: b.blur_pool2d(x, "p", 2)),
    "global_max_pool": network((3, 48, 5, 7), lambda b, x: b.global_max_pool(x, "p")),
    "max_pool": network((3, 48, 9, 7), lambda b, x: b.max_pool2d(x, "p", 3, 2, 1)),
    "average_pool": network((3, 48, 5, 7), lambda b, x: b.global_average_pool(x, "p")),
    "layer_norm": network((3, 5, 96), lambda b, x: b.layer_norm(x, "n")),
    "attention": network((3, 29, 3 * 2 * 32), lambda b, x: b.attention(x, 2, "a")),
    "batch_norm": network((3, 48, 5, 3), lambda b, x: b.batch_norm(x, "n")),
    "scale": network((3, 48, 5, 3), lambda b, x: b.scale(x, b.global_average_pool(x, "p"), "s")),
    "gelu": network((3, 48, 5, 3), lambda b, x: b.activation(x, "gelu", "a")),
}
