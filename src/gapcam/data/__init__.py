"""Data sets as they are distributed: pictures, the classes in them, and where those are.

Each layout has a module with one reader. It turns files into rows, in the words and numbers of the
files; `gather` holds every row against its picture and makes examples of those that fit.
"""

from gapcam.data.examples import ClassNames, Dataset, Example, Problem, Target
from gapcam.data.masks import load_mask
from gapcam.data.read import LAYOUTS, read_dataset

__all__ = [
    "LAYOUTS",
    "ClassNames",
    "Dataset",
    "Example",
    "Problem",
    "Target",
    "load_mask",
    "read_dataset",
]
