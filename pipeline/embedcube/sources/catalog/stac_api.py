"""The Items of a STAC API, asked for page by page within the boxes and times of a search."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from embedcube.campaign.schema import Search
from embedcube.errors import RequestError, StartAgain

_PAGE = 250
"""Items asked for at once; an API may give fewer"""

_TIMEOUT_S = 60.0

_PASSING = (408, 429)
"""Refusals of HTTP that pass: too late, too many questions"""


def searched_items(search: Search) -> Iterator[dict[str, Any]]:
    """Every Item that is found, once, as the API describes it.

    Raises:
        RequestError: there is no STAC API with a search at the URL, or it refuses the question.
        StartAgain: it could not be reached, or failed.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.warnings import DoesNotConformTo
    except ImportError:
        raise RequestError(f"{search.api}: install embedcube[stac-api] to ask a STAC API") from None
    from pystac.errors import STACError

    given: set[tuple[str, str]] = set()
    try:
        client = Client.open(search.api, timeout=_TIMEOUT_S)
        for box, times in product(search.boxes or (None,), search.times or (None,)):
            found = client.search(collections=list(search.collections), bbox=box, datetime=times, limit=_PAGE)
            for item in found.items_as_dicts():
                key = str(item.get("collection")), str(item.get("id"))
                if key not in given:
                    given.add(key)
                    yield item
    except APIError as error:
        said = " ".join(str(error).split())
        # it has none where nothing answered
        status = getattr(error, "status_code", None)
        if status is not None and status < 500 and status not in _PASSING:
            raise RequestError(f"{search.api} answered {status}: {said}") from None
        raise StartAgain(f"{search.api} could not be asked: {said}; start again when it can be reached") from None
    except (DoesNotConformTo, STACError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{search.api} is no STAC API with a search: {type(error).__name__}: {error}") from None
