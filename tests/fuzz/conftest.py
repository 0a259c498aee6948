"""Makes fuzzing.py importable, and names the long profile: ``pytest tests/fuzz --hypothesis-profile long``."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("long", deadline=None)
