"""mergekit-evolve genomes, whose program is deprecated, as recipes."""

from mergekit_optimer.evolve.convert import ImportedRecipe, import_genome
from mergekit_optimer.evolve.tasks import COUNTERPARTS, Counterpart

__all__ = ["COUNTERPARTS", "Counterpart", "ImportedRecipe", "import_genome"]
