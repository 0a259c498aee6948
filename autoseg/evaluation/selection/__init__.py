"""Which configuration, or which of them together, predicts best in cross-validation, and what to clean up afterwards.

nnU-Net's search (Isensee et al., Nature Methods 2021) is one of the rules.
"""

from autoseg.evaluation.selection.candidates import Candidate
from autoseg.evaluation.selection.choosing import CandidateScore, Rule, Selection, select
from autoseg.evaluation.selection.search import NNUNETS_RULE, SearchRule

__all__ = ["NNUNETS_RULE", "Candidate", "CandidateScore", "Rule", "SearchRule", "Selection", "select"]
