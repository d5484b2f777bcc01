"""A centred layer in what is made of a cube: the vector index, the server, exports."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zarr
from tests.uses.serving import running
from tests.uses.test_segments import ZONE, index_of, write_waves

from embedcube.cube.encoding import VALID, VALID_INCOMPLETE
from embedcube.cube.examples import wanted_by
from embedcube.cube.find import Search, find_query
from embedcube.cube.reader import Cube
from embedcube.cube.store import Cell
from embedcube.errors import WorkError
from embedcube.progress import silent
from embedcube.uses.index import here, index_vectors
from embedcube.uses.serve.app import create_app

OFFSET = np.linspace(-3, 5, 24).astype(np.float32)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    """An indexed cube of which the vectors, without the offset, are as long as those of other tests."""
    cube = Cube(write_waves(tmp_path_factory.mktemp("centred") / "cube.zarr", offset=OFFSET))
    index_vectors(cube, cube.layers, here, silent)
    return cube


def exact(cube: Cube) -> Any:
    group: Any = zarr.open_group(cube.path, mode="r")[ZONE]
    values = group["embedding"][...].astype(np.float64) * group["scale"][...].astype(np.float64)[..., None] + OFFSET
    values[~np.isin(group["status"][...], (VALID, VALID_INCOMPLETE))] = np.nan
    return values


def test_the_index_finds_what_float64_finds(cube: Cube) -> None:
    values, like = exact(cube), Cell(zone=ZONE, t=1, y=77, x=31)
    query = values[1, 77, 31]
    with np.errstate(invalid="ignore"):
        cosine = values @ query / np.linalg.norm(values, axis=-1) / np.linalg.norm(query)
    cosine[1, 77, 31] = np.nan
    best = np.sort(cosine[np.isfinite(cosine)])[::-1]
    wanted = wanted_by(cube, "one", like)
    for chosen in (True, False):
        search = Search(k=10, apart_m=0, exact=chosen)
        found = find_query(cube, "one", wanted, search, index_of(cube))
        assert (found.exact, found.indexed) == (chosen, True)
        for hit in found.hits:
            assert abs(hit.cosine - cosine[hit.t, hit.y, hit.x]) < 1e-6
        if chosen:
            np.testing.assert_allclose([hit.cosine for hit in found.hits], best[:10], rtol=0, atol=1e-6)
        else:
            assert sum(hit.cosine >= best[9] - 1e-6 for hit in found.hits) >= 9


def test_an_index_without_scales_is_refused(tmp_path: Path) -> None:
    """As one of other weights would be that was copied to this cube."""
    path = write_waves(tmp_path / "cube.zarr", windows=1)
    index_vectors(Cube(path), ("one",), here, silent)
    zarr.open_group(path / ZONE, mode="a").create_array("offset", data=OFFSET)
    cube = Cube(path)
    with pytest.raises(WorkError, match="no scales in it; run `embedcube index-vectors` again"):
        find_query(cube, "one", wanted_by(cube, "one", Cell(zone=ZONE, t=0, y=5, x=5)), Search(), index_of(cube))


def test_the_server_answers_decoded_vectors_and_says_the_offset(cube: Cube) -> None:
    values = exact(cube)
    lon, lat = (float(cube.layer.find(Cell(zone=ZONE, t=1, y=9, x=9), k=1)[name].iloc[0]) for name in ("lon", "lat"))
    cell = cube.cell_at(lon, lat, cube.windows(ZONE)[1].short)
    path = "/v1/cubes/synthetic/layers/one"
    body = {"like": [{"lon": lon, "lat": lat}], "zone": "utm32", "time": "2023-06-12", "type": "float32"}
    with running(create_app([cube.path])) as address, httpx.Client(base_url=address, trust_env=False) as client:
        answer = client.get(f"{path}/point", params={"lon": lon, "lat": lat})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["windows"][1]["vector"], values[1, cell.y, cell.x], atol=2e-6)
        answer = client.get(
            f"{path}/box", params={"bbox": f"{lon - 1e-3:.6f},{lat - 1e-3:.6f},{lon + 1e-3:.6f},{lat + 1e-3:.6f}"}
        )
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["utm32.offset"], OFFSET)
        answer = client.post(f"{path}/similar", json=body)
        assert answer.status_code == 200, answer.text
    with np.errstate(invalid="ignore"):
        cosine = values[1] @ values[1, cell.y, cell.x] / np.linalg.norm(values[1], axis=-1)
    cosine /= np.linalg.norm(values[1, cell.y, cell.x])
    np.testing.assert_allclose(np.frombuffer(answer.content, "<f4").reshape(cosine.shape), cosine, rtol=0, atol=1e-6)
