"""The models of a collection on the Hub, such as the vectors of a pool."""

from __future__ import annotations

import re

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub.faults import RefusedError
from mergekit_optimer.hub.pull import PullOptions
from mergekit_optimer.hub.remote import Remote

_SLUG = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def list_collection(slug: str, options: PullOptions | None = None) -> list[str]:
    """Return the model repositories of a collection, in its order.

    Args:
        slug: As the end of its address: owner/title-0123abcd.
        options: For the patience; None for the usual one.

    Raises:
        HubError: There is none, it cannot be had, or it has no models.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if _SLUG.fullmatch(slug) is None or ".." in slug:
        raise HubError(f"{slug} is no collection: name it as the end of its address, owner/title-0123abcd.")
    remote = Remote(slug, "model", f"collection {slug}", (options or PullOptions()).patience)
    try:
        collection = remote.ask(lambda api: api.get_collection(slug))
    except RefusedError as error:
        if error.status not in (401, 404):
            raise
        raise HubError(
            f"The collection {slug} does not exist or is private: check its address, then `hf auth login`."
        ) from error
    repos = list(dict.fromkeys(str(item.item_id) for item in collection.items if item.item_type == "model"))
    for repo in repos:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise HubError(f"The collection {slug} lists {repo[:60]!r}, which is no repository name.") from error
    if not repos:
        raise HubError(f"The collection {slug} holds no models; name one whose items are distribution vectors.")
    return repos
