"""Tables with a column of paths."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gapcam.inputs import Inputs, open_inputs, tables
from gapcam.types import ArgumentError
from picture_files import as_plain_user, open_folder


def names(inputs: Inputs) -> list[str]:
    return [item.name for item in inputs]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()


def write_parquet(file_name: str, **columns: object) -> None:
    parquet.write_table(pa.table(columns), file_name)


# --- what is read --------------------------------------------------------------------------------


def test_a_csv_table(tmp_path: Path):
    rows = '\ufeffid,Path,label\n1,a.jpg,cat\n2,"b, c.jpg","a\nb"\n\n'
    rows += f"3,{tmp_path}/d.jpg,x\n4,../e.jpg,\n"
    Path("t/table.CSV").write_bytes(rows.replace("\n", "\r\n").encode())
    found = open_inputs(["t/table.CSV"])
    assert names(found) == ["t/a.jpg", "t/b, c.jpg", f"{tmp_path}/d.jpg", "t/../e.jpg"]
    assert found.count() == 4
    assert found.root == tmp_path
    assert str(found.reader.relative("t/../e.jpg")) == "e.jpg"


@pytest.mark.parametrize(("name", "separator"), [("x.tsv", "\t"), ("x.csv", ";"), ("x.csv", "\t")])
def test_separators(name: str, separator: str):
    Path(name).write_text(f"n{separator}image\n1{separator}a,b.jpg\n")
    assert names(open_inputs([name])) == ["a,b.jpg"]


def test_urls_and_repeated_rows():
    Path("x.csv").write_text("url\nhttps://u:p@h/a.jpg\nb.jpg\nb.jpg\n./b.jpg\nfile:///c.jpg\n")
    assert names(open_inputs(["x.csv", "b.jpg"])) == ["https://h/a.jpg", "b.jpg", "/c.jpg"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_a_parquet_table(kind: pa.DataType):
    paths = ["a.jpg", "b/c.jpg", "a.jpg"]
    write_parquet("t/x.parquet", n=[1, 2, 3], file=pa.array(paths).cast(kind))
    found = open_inputs(["t/x.parquet"])
    assert names(found) == ["t/a.jpg", "t/b/c.jpg"]
    assert found.count() == 2


def test_a_parquet_table_of_several_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "_ROWS", 100)
    paths = [f"p{i % 205}.jpg" for i in range(250)]
    write_parquet("x.parquet", file=paths)
    assert names(open_inputs(["x.parquet"])) == paths[:205]


def test_the_column():
    Path("x.csv").write_text("Image,url,path,mine\na.jpg,b.jpg,c.jpg,d.jpg\n")
    write_parquet("x.pq", mine=["e.jpg"], url=["f.jpg"])
    assert names(open_inputs(["x.csv"])) == ["a.jpg"]
    assert names(open_inputs(["x.csv", "x.pq"], column="mine")) == ["d.jpg", "e.jpg"]
    assert names(open_inputs(["x.csv"], column="path")) == ["c.jpg"]


def test_patterns_and_braces_of_tables():
    for i in range(3):
        Path(f"t/{i}.csv").write_text(f"path\n{i}.jpg\n")
    assert names(open_inputs(["t/*.csv"])) == ["t/0.jpg", "t/1.jpg", "t/2.jpg"]
    assert names(open_inputs(["t/{2..1}.csv"])) == ["t/2.jpg", "t/1.jpg"]


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a line of headings, it is empty"),
        (
            "a,b\n1,2\n",
            r"expected a column of paths, it has the columns 'a', 'b'; name one with --co",
        ),
        ("path,path\n1,2\n", "'path', 'path', 2 of them fit; name one"),
        ("path\n", "the table has none; fill it"),
        (
            "path,x\na.jpg,1\n ,2\n",
            "row 2: expected the path of a picture, got nothing; fill it in",
        ),
        ("x,path\n1,a.jpg\n2\n", "row 2: .*got nothing"),
        ("path\na\0.jpg\n", r"row 1: .*got 'a\\x00\.jpg'|broken"),
        ("path\n" + "x" * 200_000, r"expected a CSV table, it is broken \(field larger.*mend it"),
    ],
)
def test_wrong_csv_tables(text: str, words: str):
    Path("x.csv").write_text(text)
    with pytest.raises(ArgumentError, match=f"x.csv: .*{words}"):
        open_inputs(["x.csv"])


def test_a_column_that_is_not_there():
    Path("x.csv").write_text(",".join(f"c{i}" for i in range(40)) + "\n")
    with pytest.raises(ArgumentError, match=r"expected a column 'p', .*'c29', \.\.\.; name one"):
        open_inputs(["x.csv"], column="p")


def test_wrong_files():
    Path("x.csv").write_bytes("path\nä.jpg\n".encode("latin-1"))
    with pytest.raises(ArgumentError, match=r"x\.csv: expected a table as UTF-8 text"):
        open_inputs(["x.csv"])
    with pytest.raises(ArgumentError, match=r"no\.csv: .*cannot be read \(No such file"):
        open_inputs(["no.csv"])
    for data in (b"", b"path\na.jpg\n", b"PAR1" + b"x" * 100 + b"PAR1"):
        Path("x.parquet").write_bytes(data)
        with pytest.raises(ArgumentError, match=r"x\.parquet: expected a Parquet table.*write it"):
            open_inputs(["x.parquet"])
    with pytest.raises(ArgumentError, match="nothing matches"):
        open_inputs(["*.tsv"])


def test_wrong_parquet_columns():
    write_parquet("x.pq", image=[{"bytes": b"x", "path": "a.jpg"}], size=[1])
    with pytest.raises(ArgumentError, match=r"as text in the column 'image', it has struct<.*name"):
        open_inputs(["x.pq"])
    with pytest.raises(ArgumentError, match="as text in the column 'size', it has int64"):
        open_inputs(["x.pq"], column="size")
    write_parquet("x.pq", path=["a.jpg", None])
    with pytest.raises(ArgumentError, match="row 2: expected the path of a picture, got nothing"):
        open_inputs(["x.pq"])
    write_parquet("x.pq", path=pa.array([], pa.string()))
    with pytest.raises(ArgumentError, match="the table has none"):
        open_inputs(["x.pq"])


def test_a_table_without_permission():
    with open_folder() as folder:
        (folder / "x.csv").write_text("path\na.jpg\n")
        (folder / "x.csv").chmod(0)
        with as_plain_user(), pytest.raises(ArgumentError, match=r"Permission denied.*permissions"):
            open_inputs([str(folder / "x.csv")])


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch):
    write_parquet("x.pq", path=["a.jpg"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ArgumentError, match=r"pyarrow is not installed.*pip install 'gapcam\[scale\]'"
    ):
        open_inputs(["x.pq"])
