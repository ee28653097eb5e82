"""progress_bar under its former name."""

from .console import progress_bar as progress_bar
