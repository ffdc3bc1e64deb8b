"""The only part that talks to the Hub: repositories to local folders, every byte checked, and folders to repositories.

    locate      a source of the recipe -> Located, fetched where it is a repository
    pull        a repository at a commit -> its snapshot in huggingface_hub's cache
    revision    a branch or tag -> the commit it is at
    room        whether they can be fetched at all
    pickles     weights that are there as pickle only -> safetensors, where the recipe allows it
    collections the models of a collection
    push        whole repositories -> the Hub, one commit each
    preflight   what could stop a push, asked before its first byte
    upload      what is to be sent, and whether it may leave this machine
    remote      the requests: resolve a revision, list files, stream one, anything of the API
    session     requests of the API once each, in time, their failures judged
    download    one file -> a blob of the cache, resumed and checked
    snapshot    the cache's layout, names and links that stay inside it, hashes
    records     what was listed and checked before, so that nothing is asked or hashed twice
    faults      what can go wrong, as sentences; what is tried again, and how long

Tokens come from huggingface_hub's own login and are never read here.
"""

from mergekit_optimer.hub.collections import list_collection
from mergekit_optimer.hub.faults import Patience
from mergekit_optimer.hub.locate import ADAPTER_FILES, MODEL_FILES, Located, locate
from mergekit_optimer.hub.preflight import PushPlan, check_login, hidden_ones, plan_push
from mergekit_optimer.hub.pull import PullOptions, pull, resolve
from mergekit_optimer.hub.push import Pushed, make_public, push, send
from mergekit_optimer.hub.room import in_bytes
from mergekit_optimer.hub.snapshot import HubFile, Kind, is_commit
from mergekit_optimer.hub.upload import PushOptions, Upload

__all__ = [
    "ADAPTER_FILES",
    "MODEL_FILES",
    "HubFile",
    "Kind",
    "Located",
    "Patience",
    "PullOptions",
    "PushOptions",
    "PushPlan",
    "Pushed",
    "Upload",
    "check_login",
    "hidden_ones",
    "in_bytes",
    "is_commit",
    "list_collection",
    "locate",
    "make_public",
    "plan_push",
    "pull",
    "push",
    "resolve",
    "send",
]
