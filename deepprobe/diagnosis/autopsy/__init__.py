"""The autopsy of a training: what happened in its first steps, in which order."""

from deepprobe.diagnosis.autopsy.events import Event
from deepprobe.diagnosis.autopsy.examine import Autopsy, autopsy

__all__ = ["Autopsy", "Event", "autopsy"]
