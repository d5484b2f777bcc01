"""The files of a cube as they are: its store, its STAC Collection and its preview, whole or by ranges of bytes.

Links inside of the Collection and a copy by `embedcube pull` work as they do beside the cube.
"""

from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from embedcube.campaign.run_folder import TEMPORARY_PREFIX
from embedcube.uses.serve.holdings import Holding


def beside(store: Path) -> dict[str, Path]:
    """Folders that are served with a store, as far as they are there: "store", "stac", "preview"."""
    found = {
        "store": store,
        "stac": store.with_name(f"{store.stem}-stac"),
        "preview": store.with_name(f"{store.stem}.preview.zarr"),
    }
    return {what: path for what, path in found.items() if path.is_dir() and not path.is_symlink()}


class CubeFiles(StaticFiles):
    """Serves the files of one cube: regular files below its folders, by GET and HEAD, no listings.

    A path with `..`, a link that leads out of the folder, a folder, a device and an unfinished file are 404.
    """

    def __init__(self, holding: Holding) -> None:
        """Serve the folders that are there now."""
        self._holding = holding
        self._folders = {path.name: path for path in beside(holding.cube.path).values()}
        super().__init__(directory=holding.cube.path.parent)

    def lookup_path(self, path: str) -> tuple[str, Any]:
        """Full path and stat of a file; ("", None) where none is served."""
        folder, *rest = Path(path).parts or ("",)
        if folder not in self._folders or not rest or any(one.startswith(TEMPORARY_PREFIX) for one in rest):
            return "", None
        root = self._folders[folder].resolve()
        full = root.joinpath(*rest).resolve()
        if not full.is_relative_to(root) or not full.is_file():
            return "", None
        return str(full), full.stat()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The answer to a request for a path."""
        try:
            return await super().get_response(path, scope)
        except (PermissionError, OSError):
            raise HTTPException(404) from None
        except HTTPException as error:
            # a file that the server itself may not read
            raise HTTPException(404 if error.status_code == 401 else error.status_code) from None

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        """The whole file or ranges of it, with the version as ETag."""
        headers = {"ETag": self._holding.etag, "Cache-Control": "no-cache"}
        media = "application/json" if str(full_path).endswith(".json") else "application/octet-stream"
        response = FileResponse(
            full_path, status_code=status_code, stat_result=stat_result, headers=headers, media_type=media
        )
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response
