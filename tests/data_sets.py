"""Writes small data sets in the form in which they are distributed, with real picture files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE_WH = (40, 30)
ORIENTATION = 0x0112


def write_picture(
    path: Path, size_wh: tuple[int, int] = SIZE_WH, orientation: int = 1, **options: Any
) -> Path:
    """A small picture; `orientation` goes into its EXIF data, unless it is 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    Image.new("RGB", size_wh, (90, 140, 60)).save(path, **options)
    return path


def write_mask(
    path: Path, box: tuple[int, int, int, int], size_wh: tuple[int, int] = SIZE_WH, mode: str = "L"
) -> Path:
    """A black mask with a white rectangle, half-open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size_wh[::-1], np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def edit(path: Path, old: str, new: str) -> Path:
    """Change the one place where a file says `old`."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (old, text)
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def csv_set(root: Path) -> Path:
    """Two pictures, three boxes, two classes."""
    write_picture(root / "images" / "a.jpg")
    write_picture(root / "images" / "b" / "c.png", (20, 50))
    write_lines(
        root / "boxes.csv",
        "image,class,width,height,x0,y0,x1,y1",
        "b/c.png,cat,20,50,0,0,20,50",
        "a.jpg,cat,40,30,1,2,11.5,12.25",
        "a.jpg,dog,40,30,20,5,40,30",
        "a.jpg,cat,40,30,3,4,9,9",
    )
    return root


def coco_content() -> dict[str, Any]:
    """A COCO file as 2017's are: with info, licences, segmentations, and a crowd."""
    more = {"segmentation": [[1, 2, 9, 2, 9, 8]], "area": 24.5}
    return {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"id": 1, "name": "Attribution License"}],
        "images": [
            {"license": 1, "file_name": "000139.jpg", "height": 30, "width": 40, "id": 139},
            {"license": 1, "file_name": "000285.jpg", "height": 30, "width": 40, "id": 285},
            {"license": 1, "file_name": "000632.jpg", "height": 30, "width": 40, "id": 632},
        ],
        "annotations": [
            {**more, "id": 1, "image_id": 139, "category_id": 64, "bbox": [1, 2, 10.5, 6.25]},
            {**more, "id": 2, "image_id": 139, "category_id": 64, "bbox": [20, 5, 20, 25]},
            {**more, "id": 3, "image_id": 139, "category_id": 1, "bbox": [0, 0, 8, 30]},
            {**more, "id": 4, "image_id": 285, "category_id": 1, "bbox": [3, 3, 3, 3]}
            | {"iscrowd": 1},
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "furniture", "id": 64, "name": "potted plant"},
        ],
    }


def coco_set(root: Path, content: dict[str, Any] | None = None) -> Path:
    for name in ("000139", "000285", "000632"):
        write_picture(root / "val2017" / f"{name}.jpg")
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content or coco_content()), encoding="utf-8")
    return root


def xml_object(name: str, box: tuple[float, ...], difficult: int = 0) -> str:
    ends = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    numbers = "".join(f"<{end}>{value}</{end}>" for end, value in ends)
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>{numbers}</bndbox></object>"
    )


def write_xml(
    path: Path, filename: str, *objects: str, size_wh: tuple[int, int] | None = SIZE_WH
) -> Path:
    size = "" if size_wh is None else "<width>{}</width><height>{}</height>".format(*size_wh)
    return write_lines(
        path,
        f"<annotation><folder>VOC2007</folder><filename>{filename}</filename>",
        "<source><database>The VOC2007 Database</database></source>",
        f"<size>{size}<depth>3</depth></size>" if size else "",
        "<segmented>0</segmented>",
        *objects,
        "</annotation>",
    )


def voc_set(root: Path) -> Path:
    """VOC2007: two annotated pictures, one of them with a difficult object, and one with none."""
    for name in ("000001", "000002", "000003"):
        write_picture(root / "JPEGImages" / f"{name}.jpg")
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin></bndbox></part>"
    person = xml_object("person", (9, 3, 20, 30)).replace("</object>", f"{part}</object>")
    objects = {
        "000001": (xml_object("dog", (1, 2, 40, 30)), person),
        "000002": (xml_object("dog", (5, 5, 5, 5)), xml_object("dog", (9, 9, 12, 12), 1)),
        "000003": (),
    }
    for name, found in objects.items():
        write_xml(root / "Annotations" / f"{name}.xml", f"{name}.jpg", *found)
    write_lines(root / "ImageSets" / "Main" / "test.txt", "000002", "000003")
    return root


def ilsvrc_set(root: Path) -> Path:
    """The tree of Kaggle's archive: val, train with a file that names no picture, CSV, words."""
    tree = root / "ILSVRC"
    val, train = "ILSVRC2012_val_00000001", "n01440764_10026"
    data, notes = tree / "Data" / "CLS-LOC", tree / "Annotations" / "CLS-LOC"
    write_picture(data / "val" / f"{val}.JPEG", format="JPEG")
    write_picture(data / "train" / "n01440764" / f"{train}.JPEG", format="JPEG")
    write_xml(
        notes / "val" / f"{val}.xml",
        val,
        xml_object("n01751748", (0, 4, 40, 29)),
        xml_object("n01751748", (3, 5, 9, 30)),
    )
    tench = xml_object("n01440764", (2, 3, 13, 14))
    write_xml(notes / "train" / "n01440764" / f"{train}.xml", "%s", tench, size_wh=None)
    write_lines(
        root / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca", "n01751748 sea snake"
    )
    write_lines(
        root / "LOC_val_solution.csv",
        "ImageId,PredictionString",
        f"{val},n01751748 0 4 40 29 n01751748 3 5 9 30 ",
    )
    return root


def cub_set(root: Path) -> Path:
    """CUB_200_2011 with two test pictures and one for training."""
    albatross, ani = "001.Black_footed_Albatross", "004.Groove_billed_Ani"
    paths = [f"{albatross}/B_0046_18.jpg", f"{albatross}/B_0009_34.jpg", f"{ani}/G_0068_1538.jpg"]
    for path in paths:
        write_picture(root / "images" / path)
    write_lines(root / "images.txt", *(f"{i} {path}" for i, path in enumerate(paths, start=1)))
    write_lines(root / "classes.txt", f"1 {albatross}", f"4 {ani}")
    write_lines(root / "image_class_labels.txt", "1 1", "2 1", "3 4")
    write_lines(root / "train_test_split.txt", "1 0", "2 1", "3 0")
    write_lines(
        root / "bounding_boxes.txt",
        "1 6.0 2.0 32.0 28.0",
        "2 1.0 1.0 5.0 5.0",
        "3 0.0 3.0 40.0 20.0",
    )
    return root


def wsol_set(root: Path) -> Path:
    """Metadata with boxes, test and val, and pictures in `images`."""
    for split, name in (("test", "val/v1.JPEG"), ("test", "val/v2.JPEG"), ("val", "val2/0/x.jpeg")):
        write_picture(root / "images" / name, format="JPEG")
        folder = root / "metadata" / split
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {"val/v1.JPEG": 65, "val/v2.JPEG": 970}.get(name, 0)
        boxes = ["11,5,39,29", "0,0,12,13"] if name == "val/v1.JPEG" else ["1,2,30,20"]
        for table, lines in {
            "image_ids.txt": [name],
            "class_labels.txt": [f"{name},{numbers}"],
            "image_sizes.txt": [f"{name},40,30"],
            "localization.txt": [f"{name},{box}" for box in boxes],
        }.items():
            with (folder / table).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
    return root


def wsol_masks_set(root: Path) -> Path:
    """OpenImages30k: instance masks of half the picture's size, an ignore mask, no sizes."""
    write_picture(root / "images" / "test" / "01226z" / "7af7.jpg")
    masks = root / "masks" / "test" / "01226z"
    write_mask(masks / "7af7_m01226z_6554.png", (1, 1, 5, 5), (20, 15), "1")
    write_mask(masks / "7af7_m01226z_8856.png", (10, 10, 15, 15), (20, 15), "1")
    write_mask(masks / "7af7_ignore.png", (0, 0, 10, 15), (20, 15), "1")
    folder, name = root / "metadata" / "test", "test/01226z/7af7"
    write_lines(folder / "image_ids.txt", f"{name}.jpg")
    write_lines(folder / "class_labels.txt", f"{name}.jpg,3")
    write_lines(
        folder / "localization.txt",
        f"{name}.jpg,{name}_m01226z_6554.png,{name}_ignore.png",
        f"{name}.jpg,{name}_m01226z_8856.png,",
    )
    return root


def masks_set(root: Path) -> Path:
    """Class folders: `crack` and `break` with masks, `free` without."""
    for name in ("crack/1.jpg", "crack/2.png", "break/deep/1.jpg", "free/1.jpg", "free/2.jpg"):
        write_picture(root / "test" / name)
    write_mask(root / "test-masks" / "crack" / "1.png", (3, 4, 20, 9))
    write_mask(root / "test-masks" / "crack" / "2_mask.png", (0, 0, 40, 30), mode="1")
    write_mask(root / "test-masks" / "break" / "deep" / "1.bmp", (39, 29, 40, 30))
    return root


def yolo_set(root: Path) -> Path:
    """As trainers read it: splits below images and labels, a list of names, a comment."""
    for name in ("train/t.jpg", "val/a.jpg", "val/b.png", "val/bare.jpg"):
        write_picture(root / "images" / name)
    write_lines(
        root / "data.yaml",
        "# a data set",
        "train: images/train",
        "val: images/val  # held out",
        "nc: 2",
        "names: ['it''s a cat', \"dog: big\"]",
        "download: |",
        "  names: nothing",
    )
    write_lines(root / "labels" / "train" / "t.txt", "0 0.5 0.5 1 1")
    write_lines(root / "labels" / "val" / "a.txt", "0 0.5 0.5 0.5 0.5", "1 0.25 0.5 0.5 1.0")
    write_lines(root / "labels" / "val" / "b.txt", "1 0.1 0.1 0.2 0.2")
    return root
