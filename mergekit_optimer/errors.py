"""Every error that the package raises on purpose, as one tree.

    OptimerError                  one sentence: what was found, what was wanted, what to do next
    ├── RecipeError               recipe.yaml is wrong; the message lists every problem
    ├── RunFolderError            a run folder belongs to another recipe, is in use, or cannot be written
    ├── HubError                  a model or dataset cannot be had from the Hub or its cache
    ├── DataError                 a corpus or a sample file is missing, empty, malformed or overlapping
    ├── VectorError               a distribution vector does not fit its base model, or is damaged
    ├── TrainError                continual pre-training cannot start or gave an unusable checkpoint
    ├── MergeError                a merge was refused, or its result is not what was asked for
    │   └── NotFiniteError        the merged tensors hold NaN or Inf; in a search that is a collapsed model
    ├── TaskError                 a task cannot be scored with this model
    ├── SearchError               the study cannot go on
    ├── WorkerError               workers cannot be had, or are at another study
    └── InfrastructureError       memory or a worker gave out: the trial is FAILED and tried again
        └── DiskError             the disk is full or cannot be written: everything stops and can go on later

The command line turns an OptimerError into its sentence and exit status 1; anything else is a bug and keeps its
traceback. A merged model that produces nonsense is no error: it is a result (see ``evaluate.collapsed``).
"""


class OptimerError(Exception):
    """Base of all errors whose message is written for the user."""


class RecipeError(OptimerError):
    """The recipe is wrong."""

    def __init__(self, origin: str, problems: list[str]) -> None:
        self.problems = sorted(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{origin} has {count}:{lines}")


class RunFolderError(OptimerError):
    """A run folder cannot be used."""


class HubError(OptimerError):
    """Something named by ``repo`` cannot be had."""


class DataError(OptimerError):
    """A corpus or a sample file cannot be used."""


class VectorError(OptimerError):
    """A distribution vector does not fit."""


class TrainError(OptimerError):
    """Training cannot be done."""


class MergeError(OptimerError):
    """A merge was refused."""


class NotFiniteError(MergeError):
    """The merged tensors hold NaN or Inf: the weights are too large for the output's dtype."""


class TaskError(OptimerError):
    """A task cannot be scored."""


class SearchError(OptimerError):
    """The study cannot go on."""


class WorkerError(OptimerError):
    """Workers cannot be had."""


class InfrastructureError(OptimerError):
    """The machine, not the merged model, failed."""


class DiskError(InfrastructureError):
    """Nothing can be written."""
