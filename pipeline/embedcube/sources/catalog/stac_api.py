"""Search a STAC API for the Items within the boxes and times of a search, page by page."""

import logging
from collections.abc import Iterator
from itertools import product
from typing import Any

from embedcube.campaign.schema import Search
from embedcube.errors import RequestError, StartAgain
from embedcube.printable import printable

_PAGE = 250
"""Items in one page; an API may return fewer"""

_WORDS = 120
"""characters of an answer in a message"""

_TIMEOUT_S = 60.0

_PASSING = (408, 429)
"""HTTP errors below 500 that may pass: request timeout, too many requests"""

log = logging.getLogger(__name__)


def searched_items(search: Search) -> Iterator[Any]:
    """Every Item that the search finds, each once, as the API returns it.

    Raises:
        RequestError: the URL is not a STAC API with a search, or the API refuses the request.
        StartAgain: the API could not be reached, or failed.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.warnings import DoesNotConformTo
    except ImportError:
        raise RequestError(f"{search.api}: install embedcube[stac-api] to ask a STAC API") from None
    from pystac.errors import STACError

    found: set[tuple[str, str]] = set()
    try:
        client = Client.open(search.api, timeout=_TIMEOUT_S)
        for box, times in product(search.boxes or (None,), search.times or (None,)):
            results = client.search(collections=list(search.collections), bbox=box, datetime=times, limit=_PAGE)
            count, page = 0, dict[str, Any]()
            for page in results.pages_as_dicts():
                # what an API sends may be anything: an Item that is none gets its verdict like those of files
                for item in page.get("features", ()):
                    count += 1
                    key = _key(item)
                    if key not in found:
                        found.add(key)
                        yield item
            matched = page.get("numberMatched")
            if isinstance(matched, int) and matched > count:
                words = "%s gave %d of the %d Items that it says it found: the cube will lack the others"
                log.warning(words, search.api, count, matched)
    except APIError as error:
        text = printable(" ".join(str(error).split()), _WORDS)
        # absent if no answer came
        status = getattr(error, "status_code", None)
        if status is not None and status < 500 and status not in _PASSING:
            raise RequestError(f"{search.api} answered {status}: {text}") from None
        raise StartAgain(f"{search.api} could not be searched: {text}; start again when it answers") from None
    except (DoesNotConformTo, STACError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        words = f"{type(error).__name__}: {printable(error, _WORDS)}"
        raise RequestError(f"{search.api} is not a STAC API with a search: {words}") from None


def _key(item: Any) -> tuple[str, str]:
    return (str(item.get("collection")), str(item.get("id"))) if isinstance(item, dict) else ("", repr(item))
