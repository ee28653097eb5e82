"""The class names that the package holds."""

from nanoinfer.data import labels
from nanoinfer.reports.torch_reference import import_torchvision


def test_labels_of_imagenet_and_digits():
    names = labels("imagenet1k", 1000)
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert labels("digits", 10) == list("0123456789")
    assert labels("imagenet1k", 3) == labels("digits", 3) == ["class 0", "class 1", "class 2"]


def test_imagenet_labels_equal_torchvisions():
    import_torchvision()
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert labels("imagenet1k", 1000) == _IMAGENET_CATEGORIES
