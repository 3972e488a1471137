"""Where the tasks of a sweep run: processes of this machine, Ray, or Slurm through submitit."""

from deepprobe.integrations.engines.local import LocalEngine
from deepprobe.integrations.engines.ray import RayEngine
from deepprobe.integrations.engines.slurm import SlurmEngine

__all__ = ["LocalEngine", "RayEngine", "SlurmEngine"]
