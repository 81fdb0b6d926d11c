"""Frozen records that cross rooms: what one room may know of another's work."""

from tfsparse.records import sections
from tfsparse.records.cost import Cost
from tfsparse.records.errors import ParityError, StripError, TrainingError
from tfsparse.records.formats import (
    EVERY_FORMAT,
    FORMATS,
    ON_MICRO,
    PACKINGS,
    QUANTISED,
    WHOLE,
    check_packing,
    formats_of,
)
from tfsparse.records.groups import (
    CARRIER,
    CONSUMER,
    PRODUCER,
    Gate,
    Member,
    Site,
    UnitGroup,
)
from tfsparse.records.partition import Partition
from tfsparse.records.results import (
    Artifact,
    Epoch,
    GroupReport,
    Parity,
    PruneReport,
    Removal,
    Result,
    Score,
    StageRow,
)
from tfsparse.records.tools import Tools
from tfsparse.records.vocabulary import (
    CRITERIA,
    CURVATURES,
    GONE,
    LOG_ALPHA_LIMIT,
    SCALE_PRIORS,
    SCALINGS,
    SWITCH_FORMS,
    TASKS,
    TAUS,
)

__all__ = [
    "CARRIER",
    "CONSUMER",
    "CRITERIA",
    "CURVATURES",
    "EVERY_FORMAT",
    "FORMATS",
    "GONE",
    "LOG_ALPHA_LIMIT",
    "ON_MICRO",
    "PACKINGS",
    "PRODUCER",
    "QUANTISED",
    "SCALE_PRIORS",
    "SCALINGS",
    "SWITCH_FORMS",
    "TASKS",
    "TAUS",
    "Artifact",
    "Cost",
    "Epoch",
    "Gate",
    "GroupReport",
    "Member",
    "Parity",
    "ParityError",
    "Partition",
    "PruneReport",
    "Removal",
    "Result",
    "Score",
    "Site",
    "StageRow",
    "StripError",
    "Tools",
    "TrainingError",
    "WHOLE",
    "UnitGroup",
    "check_packing",
    "formats_of",
    "sections",
]
