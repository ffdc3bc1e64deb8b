"""Facts -> the cards of what goes to the Hub, from the templates in hub_cards/. Adds no number of its own.

Labels, names and YAML reach a card from recipes, pools and the Hub, so nobody vouches for them. Three things keep them
text: local paths and tokens are taken out first, every value is escaped for the place it stands in, and the metadata
is dumped as YAML and never pasted together.
"""

from mergekit_optimer.cards.checkpoint import CheckpointCard, render_checkpoint_card
from mergekit_optimer.cards.environment import environment
from mergekit_optimer.cards.merged import base_models, eval_results_files, render_model_card
from mergekit_optimer.cards.pool import PoolCard, PoolRow, render_pool_card
from mergekit_optimer.cards.text import escape_markdown, without_secrets
from mergekit_optimer.cards.vector import VectorCard, render_vector_card

__all__ = [
    "CheckpointCard",
    "PoolCard",
    "PoolRow",
    "VectorCard",
    "base_models",
    "environment",
    "escape_markdown",
    "eval_results_files",
    "render_checkpoint_card",
    "render_model_card",
    "render_pool_card",
    "render_vector_card",
    "without_secrets",
]
