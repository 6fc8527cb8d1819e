"""Training, epoch by epoch, of the runs that one program trains together.

``trainer`` returns a ``Trainer`` for some specs: a ``Solo`` for one run, a ``Cohort`` for several.
"""

from typing import TYPE_CHECKING

from lpc._front.faces import face

if TYPE_CHECKING:
    from lpc.training.build import load_member as load_member
    from lpc.training.build import trainer as trainer
    from lpc.training.cohorts import Cohort as Cohort
    from lpc.training.cohorts import shape_of as shape_of
    from lpc.training.solo import Solo as Solo
    from lpc.training.together import SideBySide as SideBySide
    from lpc.training.trainers import EpochLoss as EpochLoss
    from lpc.training.trainers import Trainer as Trainer
    from lpc.training.trainers import bad_epoch as bad_epoch
else:
    __getattr__, __dir__ = face(__name__)
