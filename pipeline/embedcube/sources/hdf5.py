"""Refuse HDF5 files that take their numbers from other files, through the HDF5 library that netCDF4 brings along.

A link may lead into another file, the values of a dataset may be stored in any file as raw bytes, and a virtual dataset
is made of those of other files. The NetCDF library follows all three and cannot say so.
"""

import ctypes
import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from embedcube.sources.hdf5_heap import is_hdf5

_ID = ctypes.c_int64
_VISIT = ctypes.CFUNCTYPE(ctypes.c_int, _ID, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p)
"""int op(group, name of a link, its description, data of the caller); the description begins with the link's type"""

_HARD, _EXTERNAL = 0, 64
"""types of links: to an object of this file; the first of those that may lead elsewhere"""

_CLOSE_DEGREES = (0, 2, 3)
"""what closing a file does to its open objects: the default, SEMI, STRONG. A file that this process has open already
opens again only with the same one, and which one the NetCDF library takes depends on its version"""

_VIRTUAL = 3
"""layout of a dataset that is made of others"""


def refuse_other_files(path: Path) -> None:
    """Refuse an HDF5 file in which a link or a dataset names another file; files of other formats pass.

    Raises:
        ValueError: naming the link or dataset.
        OSError: it could not be opened: its bytes are wrong, or for a reason that may pass.
    """
    if not is_hdf5(path):
        return
    library = _library()
    opened = _opened(library, path)
    found: list[str] = []

    def look(_: int, name: bytes, kind: Any, __: Any) -> int:
        if kind[0] >= _EXTERNAL or (kind[0] == _HARD and _is_elsewhere(library, opened, name)):
            found.append(name.decode(errors="replace"))
        return len(found)  # anything but 0 ends the visit

    try:
        visited = _visit(library)(opened, 0, 0, _VISIT(look), None)
    finally:
        library.H5Fclose(opened)
    if found:
        raise ValueError(f"{found[0]} is stored in another file; write its values into this one")
    if visited < 0:
        raise ValueError("its links cannot be listed")


def _opened(library: Any, path: Path) -> int:
    """The open file.

    Raises:
        OSError: it could not be opened.
    """
    for degree in _CLOSE_DEGREES:
        access = library.H5Pcreate(_ID.in_dll(library, "H5P_CLS_FILE_ACCESS_ID_g"))
        library.H5Pset_fclose_degree(access, degree)
        opened: int = library.H5Fopen(os.fsencode(path), 0, access)
        library.H5Pclose(access)
        if opened >= 0:
            return opened
    raise OSError(f"{path.name} has the signature of HDF5, and the HDF5 library cannot open it")


def _is_elsewhere(library: Any, file: int, name: bytes) -> bool:
    """Whether a name is that of a dataset whose values are in other files."""
    dataset = library.H5Dopen2(file, name, 0)
    if dataset < 0:
        return False  # a group, or a type
    properties = library.H5Dget_create_plist(dataset)
    try:
        return bool(library.H5Pget_external_count(properties) > 0 or library.H5Pget_layout(properties) == _VIRTUAL)
    finally:
        library.H5Pclose(properties)
        library.H5Dclose(dataset)


def _visit(library: Any) -> Any:
    """H5Lvisit, under the name that this version of HDF5 has for it."""
    visit = getattr(library, "H5Lvisit2", None) or library.H5Lvisit1
    visit.argtypes = [_ID, ctypes.c_int, ctypes.c_int, _VISIT, ctypes.c_void_p]
    return visit


@cache
def _library() -> Any:
    """The HDF5 library of netCDF4, silent about errors, which callers report."""
    # names are looked up in the libraries that the module was linked with
    library = ctypes.CDLL(str(import_module("netCDF4._netCDF4").__file__))
    for name, result, arguments in (
        ("H5Fopen", _ID, [ctypes.c_char_p, ctypes.c_uint, _ID]),
        ("H5Fclose", ctypes.c_int, [_ID]),
        ("H5Pcreate", _ID, [_ID]),
        ("H5Pset_fclose_degree", ctypes.c_int, [_ID, ctypes.c_int]),
        ("H5Dopen2", _ID, [_ID, ctypes.c_char_p, _ID]),
        ("H5Dclose", ctypes.c_int, [_ID]),
        ("H5Dget_create_plist", _ID, [_ID]),
        ("H5Pclose", ctypes.c_int, [_ID]),
        ("H5Pget_external_count", ctypes.c_int, [_ID]),
        ("H5Pget_layout", ctypes.c_int, [_ID]),
        ("H5open", ctypes.c_int, []),
        ("H5Eset_auto2", ctypes.c_int, [_ID, ctypes.c_void_p, ctypes.c_void_p]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.H5open()  # fills in the numbers of the classes of properties
    library.H5Eset_auto2(0, None, None)
    return library
