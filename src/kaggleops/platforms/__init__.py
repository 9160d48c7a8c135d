"""Where am I (Colab, Kaggle, RunPod, Kaggle's image, elsewhere), and what belongs to this machine.

Light: a tracking process asks this at its start.
"""

from kaggleops.platforms.machine import Platform, detect

__all__ = ["Platform", "detect"]
