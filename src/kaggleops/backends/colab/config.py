"""What can be said about a session on Colab, besides the code."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.backends.config import Config
from kaggleops.errors import UsageError
from kaggleops.platforms.keys import File

GPUS = ("T4", "L4", "G4", "A100", "H100")
TPUS = ("v5e1", "v6e1")

LONGEST_HOURS = 24
"""What a session may last at most, with Colab Pro+ (secondary sources, 2026); 12 without."""


@dataclass(frozen=True)
class EnterpriseConfig:
    """The fields under `enterprise` in config/backend/colab.yaml."""

    project: str = ""
    location: str = "us-central1"
    template: str = ""
    service_account: str = ""


@dataclass(frozen=True)
class ColabConfig(Config):
    """The fields of config/backend/colab.yaml, where each is explained."""

    accelerator: str = "T4"
    high_mem: bool = False
    session_hours: float = 12
    credentials: str = ""
    auth: str = "oauth2"
    cli: str = "colab"
    enterprise: EnterpriseConfig = field(default_factory=EnterpriseConfig)

    @property
    def key_file(self) -> Path:
        """The key of the bucket."""
        named = Path(self.credentials).expanduser().absolute() if self.credentials else None
        return named or File("colab").path

    def check(self, doing: str) -> None:
        """Check what types cannot say.

        Raises:
            UsageError: a field has a value that Colab would not take, or would take for another.
        """
        known = (*GPUS, *TPUS)
        if self.accelerator and self.accelerator not in known:
            # The CLI would take any other for an A100, the dearest but one.
            folded = {each.lower(): each for each in known}
            close = difflib.get_close_matches(self.accelerator.lower(), folded, n=1)
            hint = f"Is {folded[close[0]]} meant? " if close else ""
            hint += f"There are: {', '.join(known)}, and '' for none."
            raise UsageError(doing, f"accelerator: there is no {self.accelerator!r}", hint)
        if not 0 < self.session_hours <= LONGEST_HOURS:
            problem = f"session_hours: {self.session_hours:g} is not between 0 and {LONGEST_HOURS}"
            raise UsageError(doing, problem)
        if self.auth not in ("oauth2", "adc"):
            raise UsageError(doing, f"auth: {self.auth!r} is unknown", "It is oauth2 or adc.")
        for name in ("location", "template", "service_account"):
            if self.enterprise.project and not getattr(self.enterprise, name):
                raise UsageError(doing, f"enterprise.{name}: it has to be named")
