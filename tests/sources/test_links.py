"""Where the links of Items lead here: by the key `links`, or to files beside the Item."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from tests.conftest import Campaign

from embedcube.campaign.load import load_campaign
from embedcube.campaign.scene import Scene
from embedcube.campaign.schema import Archive
from embedcube.errors import RequestError
from embedcube.prepare.index import index
from embedcube.sources.catalog.find import archive_products, find_products
from embedcube.sources.catalog.products import Product

NAMES = {"B04": frozenset({"b04", "red"})}
ID = "S2A_32UNA_20230607_0_L2A"


def write_image(path: Path, value: int = 1500) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=16, height=16, count=1, dtype="uint16", crs="EPSG:32632", nodata=0,
        transform=from_origin(600000, 5600000, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.full((16, 16), value, "uint16"), 1)
    return path


def item(href: str, id: str = ID, time: str = "2023-06-07T10:16:01Z", **asset: Any) -> dict[str, Any]:
    properties = {"datetime": time, "s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "properties": properties, "links": [],
        "bbox": [10.4113, 50.5419, 10.4136, 50.5434], "geometry": None, "assets": {"red": {"href": href} | asset},
    }  # fmt: skip


def write_item(folder: Path, document: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{document['id']}.json").write_text(json.dumps(document))


def found(path: Path, **links: Path) -> list[Product]:
    archive = Archive(source="sentinel2", path=path, bands=("B04",), links=links)
    return list(archive_products(archive, NAMES))


@pytest.mark.parametrize(
    ("href", "where"),
    [
        ("s3://bucket/a/B04.tif", "staged/a/B04.tif"),
        ("S3://bucket/a/B04.tif", "staged/a/B04.tif"),
        ("/vsis3/bucket/a/B04.tif", "staged/a/B04.tif"),
        ("s3://bucket/deep/a/B04.tif", "deeper/a/B04.tif"),
        ("s3://bucket/deeper/a/B04.tif", "staged/deeper/a/B04.tif"),
        ("s3://bucket/a%20b/B04.tif", "staged/a%20b/B04.tif"),
        ("https://host.org/a/B04.tif", "web/a/B04.tif"),
        ("HTTPS://HOST.org/a/B04.tif", "web/a/B04.tif"),
        ("https://user:secret@host.org/a/B04.tif", "web/a/B04.tif"),
        ("https://host.org/a/B04.tif?sv=2023&sig=a/b%2Fc#x/y", "web/a/B04.tif"),
        ("/vsicurl/https://host.org/a/B04.tif", "web/a/B04.tif"),
        ("https://host.org/a%20b/B04.tif", "web/a b/B04.tif"),
        ("/eodata/a/B04.tif", "mounted/a/B04.tif"),
        ("file:///other/a/B04.tif", "other/a/B04.tif"),
    ],
)
def test_the_longest_beginning_of_a_link_says_where_it_leads(tmp_path: Path, href: str, where: str) -> None:
    write_image(tmp_path / where)
    write_item(tmp_path / "items", item(href))
    links = {
        "s3://bucket": "staged", "s3://bucket/deep/": "deeper", "https://host.org/": "web", "/eodata/": "mounted",
        "file:///other": "other",
    }  # fmt: skip
    (product,) = found(tmp_path / "items", **{key: tmp_path / folder for key, folder in links.items()})
    assert (product.missing, product.files["B04"].path) == ({}, tmp_path / where)


@pytest.mark.parametrize("href", ["s3://bucket/../B04.tif", "s3://bucket/a/%2e%2e/%2e%2e/B04.tif"])
def test_no_link_leads_out_of_its_folder(tmp_path: Path, href: str) -> None:
    write_image(tmp_path / "B04.tif")
    write_item(tmp_path / "items", item(href))
    (product,) = found(tmp_path / "items", **{"s3://bucket/": tmp_path / "staged"})
    assert product.files == {}
    assert "leads out of the folder of links s3://bucket/" in product.missing["B04"]


def test_another_bucket_is_not_meant_and_the_message_says_what_to_write(tmp_path: Path) -> None:
    write_image(tmp_path / "staged" / "B04.tif")
    write_item(tmp_path / "items", item("s3://bucket2/deep/B04.tif?sig=secret"))
    (product,) = found(tmp_path / "items", **{"s3://bucket/": tmp_path / "staged"})
    assert 'links: {"s3://bucket2/": FOLDER}' in product.missing["B04"]
    assert "secret" not in product.missing["B04"]
    assert len(product.missing["B04"]) < 220


def test_a_mapped_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_item(tmp_path / "items", item("s3://bucket/deep/B04.tif"))
    (product,) = found(tmp_path / "items", **{"s3://bucket/": tmp_path / "staged"})
    assert product.missing["B04"] == f"{tmp_path}/staged/deep/B04.tif does not exist"


def test_an_alternate_link_is_used_where_the_first_leads_elsewhere(tmp_path: Path) -> None:
    file = write_image(tmp_path / "mounted" / "B04.tif")
    write_item(tmp_path / "items", item("https://host.org/B.tif", alternate={"local": {"href": str(file)}}))
    (product,) = found(tmp_path / "items")
    assert product.files["B04"].path == file


def test_a_link_to_a_file_that_is_there_counts_before_one_to_a_file_that_is_not(tmp_path: Path) -> None:
    gone, file = tmp_path / "gone" / "B04.tif", tmp_path / "mounted" / "B04.tif"
    document = item(str(gone), alternate={"a": {"href": "./other/B04.tif"}, "b": {"href": file.as_uri()}})
    write_item(tmp_path / "items", document)
    (product,) = found(tmp_path / "items")
    assert product.missing["B04"] == f"{gone} (tried also: ./other/B04.tif, {file.as_uri()}) does not exist"
    write_image(file)
    (product,) = found(tmp_path / "items")
    assert (product.missing, product.files["B04"].path) == ({}, file)
    # a file beside the Item is what a link to another machine means
    beside = write_image(tmp_path / "items" / "host" / "B04.tif")
    document["assets"]["red"] = {"href": str(gone), "alternate": {"s3": {"href": "s3://bucket/host/B04.tif"}}}
    write_item(tmp_path / "items", document)
    (product,) = found(tmp_path / "items")
    assert (product.missing, product.files["B04"].path) == ({}, beside)


@pytest.mark.parametrize("place", ["B04.tif", f"{ID}/B04.tif", "6/S2A/B04.tif", "32/U/NA/2023/6/S2A/B04.tif"])
@pytest.mark.parametrize("write", [write_item, lambda folder, one: write_collection(folder, [one])])
def test_a_file_beside_the_item_is_used_with_what_the_item_says(
    tmp_path: Path, place: str, write: Callable[[Path, dict[str, Any]], Any]
) -> None:
    write_image(tmp_path / place)
    where = write(tmp_path, item("https://host.org/32/U/NA/2023/6/S2A/B04.tif?sig=x"))
    (product,) = found(where or tmp_path)
    assert (product.id, product.missing, product.files["B04"].path) == (ID, {}, tmp_path / place)
    assert product.properties["s2:processing_baseline"] == "05.09"


def write_collection(folder: Path, items: list[dict[str, Any]]) -> Path:
    (folder / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return folder / "search.json"


def test_a_file_that_two_items_may_have_is_used_by_none(tmp_path: Path) -> None:
    """It would be the pixels of one day under the date of another."""
    write_image(tmp_path / "B04.tif")
    days = [("a", "2023-06-07T10:16:01Z"), ("b", "2023-06-12T10:16:01Z")]
    for id, time in days:
        write_item(tmp_path, item(f"https://host.org/{id}/B04.tif", id, time))
    products = found(tmp_path)
    assert [(p.id, p.files) for p in products] == [("a", {}), ("b", {})]
    assert all("may be of any of several Items" in p.missing["B04"] for p in products)
    assert found(write_collection(tmp_path, [item(f"https://host.org/{i}/B04.tif", i, t) for i, t in days])) != []
    # one of them says that it is its own
    write_item(tmp_path, item("./B04.tif", *days[0]))
    first, second = found(tmp_path)
    assert (set(first.files), set(second.files)) == ({"B04"}, set())


@pytest.mark.parametrize(
    ("image", "time"),
    [
        ("S2A_20230607_B04.tif", "2023-06-07T10:16:01Z"),
        # the local day of the file's name, and the day of UTC
        (f"{ID}_B04.tif", "2023-06-06T23:59:00Z"),
        (f"{ID}/B04.tif", "2023-06-07T10:16:01Z"),
    ],
)
def test_an_item_and_the_images_beside_it_are_one_scene(tmp_path: Path, image: str, time: str) -> None:
    write_image(tmp_path / image)
    write_image(tmp_path / "S2A_20230612_B04.tif")
    write_item(tmp_path, item("https://host.org/else/B4.tif", time=time))
    assert sorted(product.id for product in found(tmp_path)) == ["S2A_20230612", ID]


def campaign_in(folder: Path, **archive: Any) -> Campaign:
    made = Campaign(folder / "campaign.yaml")
    document = {
        "campaign": "linked",
        "archives": {"s2": {"source": "sentinel2", "path": "archive", "bands": ["B04"], **archive}},
        "grid": {"crs": "EPSG:32632", "pixel": 10},
        "windows": [["2023-06-01", "2023-07-01"]],
        "layers": {"s2": {"archives": "s2", "backbone": {"name": "mosaiks", "filters": 2}}},
    }
    made.file.write_text(yaml.safe_dump(document))
    return made


def indexed(made: Campaign) -> list[Scene]:
    made.run.root.mkdir(parents=True, exist_ok=True)
    return index(load_campaign(made.file), made.run)


def test_staged_files_are_the_scenes_of_their_items(tmp_path: Path) -> None:
    """By `links` and beside the Item: one scene, with the offset that the Item's baseline says."""
    write_item(tmp_path / "archive", item("https://host.org/2023/B04.tif"))
    write_image(tmp_path / "staged" / "2023" / "B04.tif")
    (mapped,) = indexed(campaign_in(tmp_path, links={"https://host.org/": "../staged"}))
    write_image(tmp_path / "archive" / "B04.tif")
    (beside,) = indexed(campaign_in(tmp_path))
    assert [(s.id, s.verdict, s.offset) for s in (mapped, beside)] == [(ID, "", -1000.0)] * 2
    assert mapped.digest == beside.digest
    assert [s.assets[0].path for s in (mapped, beside)] == ["../staged/2023/B04.tif", "B04.tif"]


def test_folders_of_links_are_relative_to_the_archive_and_no_part_of_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive" / "staged").mkdir(parents=True)
    plain = load_campaign(campaign_in(tmp_path).file)
    monkeypatch.setenv("EMBEDCUBE_STAGED", "staged")
    made = campaign_in(tmp_path, links={"s3://bucket/": "${EMBEDCUBE_STAGED}", "s3://other/": str(tmp_path)})
    made.change(lambda document: document.update(env=["EMBEDCUBE_STAGED"]))
    named = load_campaign(made.file)
    assert named.archives["s2"].links == {"s3://bucket/": tmp_path / "archive" / "staged", "s3://other/": tmp_path}
    assert named.digest == plain.digest


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({"s3://bucket/": "nowhere"}, r"archives\.s2\.links: .*/archive/nowhere is no folder"),
        ({"s3://bucket/": "~/staged"}, r"archives\.s2\.links: .*/archive/~/staged is no folder"),
        ({"bucket": "."}, '"bucket" is not the beginning of a link; write for example'),
        ({"https://me:secret@host/": "."}, r'"https://\*\*\*@host/" holds a user name, a password'),
        ({"https://host/?sig=secret": "."}, "holds a user name, a password or parameters"),
    ],
)
def test_wrong_links_are_refused(tmp_path: Path, links: dict[str, str], words: str) -> None:
    (tmp_path / "archive").mkdir()
    with pytest.raises(RequestError, match=words) as raised:
        load_campaign(campaign_in(tmp_path, links=links).file)
    assert "secret" not in str(raised.value)


# --- saved searches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"numberMatched": 250, "numberReturned": 1}, "holds 1 of the 250 Items of its search"),
        ({"context": {"matched": 12_500, "returned": 1}}, "holds 1 of the 12,500 Items of its search"),
        ({"search:metadata": {"matched": 3}}, "holds 1 of the 3 Items of its search"),
        ({"numberReturned": 2}, "holds 1 of the 2 Items of its search"),
        ({"links": [{"rel": "next", "href": "https://host/search?token=x"}]}, "holds 1 Items and links to a next page"),
        ({"numberMatched": 1, "links": [{"rel": "next", "href": "https://host/search?token=x"}]}, ""),
        ({"numberMatched": 1, "numberReturned": 1, "context": {"matched": None}}, ""),
        ({"numberMatched": "many", "links": [7, {"rel": "self"}], "context": 4}, ""),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("whole", ["file", "folder"])
def test_a_saved_search_that_lacks_items_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: str, more: dict[str, Any], words: str
) -> None:
    write_image(tmp_path / "B04.tif")
    document = {"type": "FeatureCollection", "features": [item("./B04.tif")], **more}
    (tmp_path / "search.json").write_text(json.dumps(document))
    (product,) = found(tmp_path if whole == "folder" else tmp_path / "search.json")
    assert (product.id, product.missing) == (ID, {})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(words)
    assert all(words in line and len(line) < 300 and "one .ndjson file" in line for line in said)


def test_an_item_and_the_same_in_a_saved_search_are_one_scene(tmp_path: Path) -> None:
    write_image(tmp_path / "B04.tif")
    write_item(tmp_path, item("./B04.tif"))
    write_collection(tmp_path, [item("./B04.tif"), item("./B04.tif", "other", "2023-06-12T10:16:01Z")])
    assert sorted(product.id for product in found(tmp_path)) == [ID, "other"]


def found_by_number(folder: Path, assets: dict[str, Any], **numbers: int) -> Product:
    """The product of an Item with these assets; `numbers` say which band of a file is which."""
    write_item(folder, item("x") | {"assets": assets})
    names = {band: frozenset((str(number),)) for band, number in numbers.items()}
    (product,) = find_products(folder, names)
    return product


def test_bands_of_an_item_that_does_not_describe_them_are_found_by_their_numbers(tmp_path: Path) -> None:
    """As in files without descriptions; what the Item states of each band is that band's."""
    for name in ("all.tif", "clouds.tif"):
        write_image(tmp_path / name)
    stated = [{"nodata": 0}, {"nodata": -1, "scale": 0.5}]
    assets: dict[str, dict[str, Any]] = {
        "data": {"href": "./all.tif", "raster:bands": stated},
        "metadata": {"href": "./all.xml", "roles": ["metadata"]},
        "thumbnail": {"href": "./all.png"},
    }
    product = found_by_number(tmp_path, assets, B04=2, B08=1, B12=3)
    assert {band: (file.path.name, file.index) for band, file in product.files.items()} == {
        "B04": ("all.tif", 2), "B08": ("all.tif", 1), "B12": ("all.tif", 3),
    }  # fmt: skip
    assert [product.files[band].stated.nodata for band in ("B04", "B08")] == [-1, 0]
    assert product.files["B04"].stated.scale == 0.5
    # one that does describe them; and one with several files, where a number tells nothing
    assets["data"] |= {"eo:bands": [{"name": "red"}, {"name": "nir"}]}
    assert found_by_number(tmp_path, assets, B04=2).files["B04"].index == 2
    # a file that is called so is none of its bands
    write_image(tmp_path / "2.tif")
    assert found_by_number(tmp_path, {"data": {"href": "./2.tif"}}, B04=2).files["B04"].index == 2
    # a name that two of its bands have names nothing
    names = {"B04": frozenset(("sr",)), "B08": frozenset(("2",))}
    twice = assets | {"data": assets["data"] | {"eo:bands": [{"name": "sr"}, {"name": "sr"}]}}
    write_item(tmp_path, item("x") | {"assets": twice})
    (unclear,) = find_products(tmp_path, names)
    assert unclear.missing["B04"].startswith("its asset all has several bands of this name; options.variables takes")
    assert unclear.files["B08"].index == 2
    assets |= {"clouds": {"href": "./clouds.tif"}}
    assert found_by_number(tmp_path, assets, B04=1).missing["B04"] == (
        "1 is the number of a band in a file, and the item has 2 files (all, clouds): options.variables takes the "
        "name of one of them, or of a band"
    )
