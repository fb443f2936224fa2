"""The layout `voc`: Pascal VOC (Everingham et al., IJCV 2010).

VOC counts pixels from 1, both ends included: the box is `(xmin - 1, ymin - 1, xmax, ymax)`. The
picture is the XML file's `filename`, in the folder that the XML file has below `Annotations`; where
`filename` is not that of a picture, it is the picture with the XML file's own name.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from gapcam.data.fields import (
    images_beside,
    is_dir,
    is_file,
    is_picture,
    plural,
    read_lines,
    with_suffix,
)
from gapcam.data.ilsvrc import is_wordnet_id
from gapcam.data.rows import Annotations, Layout, Source
from gapcam.data.xml_files import Dialect, find_base, first_class, mirrored, read_files, xml_names
from gapcam.types import DataError


def _fits(path: Path) -> bool:
    name = first_class(find_base(path)) if is_dir(path) else None
    return name is not None and not is_wordnet_id(name)


def _read(source: Source) -> Annotations:
    base = find_base(source.path)
    images = source.images or mirrored(base, "JPEGImages") or images_beside(base)
    names = list(xml_names(base))
    notes: tuple[str, ...] = ()
    if source.split not in (None, "all"):
        wanted = _listed(base, f"{source.split}.txt")
        left_out = len(names)
        names = [name for name in names if name in wanted]
        left_out -= len(names)
        notes = (f"{plural(left_out, 'picture')} outside the split {source.split!r} left out",)
    dialect = Dialect(1, lambda name, file: _picture(images, name, file), lambda name: (name,))
    return read_files(base, names, images, dialect, notes)


def _listed(base: Path, file: str) -> set[str]:
    path = base.parent / "ImageSets" / "Main" / file
    if not is_file(path):
        raise DataError(f"{path}: expected the list of the split, there is none; leave out split")
    return {text.strip() for _, text in read_lines(path)}


def _picture(images: Path, name: str, file: str) -> str:
    if is_picture(PurePosixPath(file).name):
        return (PurePosixPath(name).parent / file).as_posix()
    return with_suffix(images, (name,)) or f"{name}.jpg"


LAYOUT = Layout(
    "voc",
    "a folder of VOC annotations (*.xml), or one that holds it as Annotations",
    _fits,
    _read,
    splits=("train", "val", "trainval", "test", "all"),
)
