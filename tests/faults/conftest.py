"""Lets the tests import the modules beside them; ``make test-faults`` runs these as a script."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
