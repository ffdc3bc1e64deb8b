"""The only part that talks to the Hub: a path or repo@revision of the recipe -> a local folder, every byte checked.

    locate      a source of the recipe -> Located (the one function others call)
    pull        a repository at a commit -> its snapshot in huggingface_hub's cache
    room        whether they can be fetched at all
    remote      the requests: resolve a revision, list files, stream one
    download    one file -> a blob of the cache, resumed and checked
    snapshot    the cache's layout, names and links that stay inside it, hashes
    records     what was listed and checked before, so that nothing is asked or hashed twice
    faults      what can go wrong, as sentences; what is tried again, and how long

Tokens come from huggingface_hub's own login and are never read here.
"""

from mergekit_optimer.hub.faults import Patience
from mergekit_optimer.hub.locate import Located, locate
from mergekit_optimer.hub.pull import PullOptions, pull

__all__ = ["Located", "Patience", "PullOptions", "locate", "pull"]
