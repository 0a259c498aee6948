"""What is to be learned from: cases, channels and labels of a raw dataset, found on disk and not yet read."""

from autoseg.dataset.case import Case, Dataset
from autoseg.dataset.loading import find_input, load_dataset
from autoseg.dataset.nnunet import find_cases
from autoseg.dataset.source import DatasetSource

__all__ = ["Case", "Dataset", "DatasetSource", "find_cases", "find_input", "load_dataset"]
