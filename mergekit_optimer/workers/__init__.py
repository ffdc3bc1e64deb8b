"""The same study over several processes, GPUs and machines: who scores, and what is done where one dies."""

from mergekit_optimer.workers.actors import RayActors
from mergekit_optimer.workers.crew import MAX_IN_FLIGHT, Backend, Crew
from mergekit_optimer.workers.processes import LocalProcesses
from mergekit_optimer.workers.service import Answer, Call, MakeScorer, Scorer

__all__ = ["MAX_IN_FLIGHT", "Answer", "Backend", "Call", "Crew", "LocalProcesses", "MakeScorer", "RayActors", "Scorer"]
