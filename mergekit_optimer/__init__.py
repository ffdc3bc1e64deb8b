"""mergekit-optimer: find the merge weights of distribution vectors after continual pre-training.

Importing the package registers nothing and loads nothing heavy; each stage loads what it needs when it runs.
"""

__version__ = "0.1.0"
