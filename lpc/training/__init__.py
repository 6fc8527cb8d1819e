"""The face of lpc.training."""

from lpc.training.trainers import bad_epoch as bad_epoch
from lpc.training.trainers import load_member as load_member
from lpc.training.trainers import trainer as trainer
