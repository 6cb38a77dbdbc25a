"""Archives of all kinds of harm are refused, and leave nothing behind."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from demt.data.doctor.archive import ArchiveError, Limits, unpack

FILES = {"data/images/1.png": b"one", "data/depth/ä 1.npy": bytes(range(256)) * 4000, "data/empty.txt": b""}


def write_zip(path, entries, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, contents in entries:
            file.writestr(name, contents)
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def write_tar(path, entries, mode="w:gz"):
    """Entries are (name, contents) or (TarInfo, contents)."""
    with tarfile.open(path, mode) as file:
        for name, contents in entries:
            info = member(name) if isinstance(name, str) else name
            info.size = len(contents)
            file.addfile(info, io.BytesIO(contents))
    return path


def write(path, entries):
    if path.suffix == ".zip":
        return write_zip(path, entries)
    return write_tar(path, entries, "w:gz" if path.suffix == ".gz" else "w:")


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive, message, limits=None):
    target = archive.parent / "sub/target"
    target.parent.mkdir(exist_ok=True)
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack(archive, target, limits=limits)
    assert archive.name in str(caught.value)
    assert sorted(archive.parent.rglob("*")) == before


KINDS = ["a.zip", "a.tar", "a.tar.gz"]


@pytest.mark.parametrize("name", KINDS)
def test_whole_archives(tmp_path, name):
    archive = write(tmp_path / name, FILES.items()).rename(tmp_path / "download")
    (tmp_path / "target").mkdir()
    assert unpack(archive, tmp_path / "target") == 3
    assert contents_of(tmp_path / "target") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download", "target"]
    with pytest.raises(FileExistsError, match="not empty"):
        unpack(archive, tmp_path / "target")


def test_folders_and_permissions(tmp_path):
    folder, file = member("./", tarfile.DIRTYPE), member("./a/b")
    file.mode = 0o6777
    archive = write_tar(tmp_path / "a.tar", [(folder, b""), (member("./a/", tarfile.DIRTYPE), b""), (file, b"x")])
    unpack(archive, tmp_path / "target")
    assert contents_of(tmp_path / "target") == {"a/b": b"x"}
    (tmp_path / "plain").write_bytes(b"")
    same = (tmp_path / "target/a/b").stat().st_mode, (tmp_path / "plain").stat().st_mode
    assert stat.S_IMODE(same[0]) == stat.S_IMODE(same[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/x", "an absolute path, '/etc/x'"),
        ("../x", r"out of the folder, '\.\./x'"),
        ("a/../../x", "out of the folder"),
        ("a/..", "out of the folder"),
        ("C:/x", "an absolute path"),
        ("c:x", "an absolute path"),
        ("..\\x", "out of the folder"),
        ("\\x", "an absolute path"),
        ("\\\\host\\share\\x", "an absolute path"),
        ("a\\x", "a backslash"),
        (".", "without a name|no files"),
    ],
)
def test_paths_that_lead_elsewhere(tmp_path, kind, name, message):
    refused(write(tmp_path / kind, [("fine", b"1"), (name, b"2")]), message)


def test_a_name_that_zipfile_would_cut_short(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("a.png_x", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"a.png_x", b"a.png\0x"))
    refused(archive, "backslash or NUL")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("first", "second"),
    [("a/x", "a/x"), ("a/x", "a/./x"), ("a/x", "a//x"), ("a/x", "A/X"), ("é", "e\u0301"), ("a", "a/x"), ("a/x", "a")],
)
def test_two_files_in_one_place(tmp_path, kind, first, second):
    refused(write(tmp_path / kind, [(first, b"1"), (second, b"2")]), "two files")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
    ids=["symlink", "hardlink", "character device", "block device", "fifo", "sparse"],
)
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_links_and_devices(tmp_path, kind, ending):
    outside = tmp_path.parent / "outside"
    bad = member("images", kind, link=str(outside))
    archive = write(tmp_path / f"a.{ending}", [("fine", b"1"), (bad, b""), ("images/x", b"2")])
    refused(archive, "a link or special file, 'images'")
    assert not outside.exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_in_zip_files(tmp_path, kind):
    info = zipfile.ZipInfo("images")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    refused(write_zip(tmp_path / "a.zip", [("fine", b"1"), (info, "/etc")]), "a link or special file, 'images'")


@pytest.mark.parametrize("kind", KINDS)
def test_bombs(tmp_path, kind):
    many = write(tmp_path / kind, [(f"{k}", b"") for k in range(101)])
    refused(many, "more than 100 files", Limits(files=100))
    large = write(tmp_path / kind, [("a", os.urandom(600_000)), ("b", os.urandom(500_000))])
    refused(large, r"more than 0\.000977 GiB", Limits(size=2**20))
    assert unpack(large, tmp_path / "fine", limits=Limits(size=1_100_000)) == 2


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_bombs_by_ratio(tmp_path, kind):
    archive = write(tmp_path / kind, [("a", bytes(2**26)), ("b", bytes(2**20))])
    refused(archive, r"more than 200 times its [\d,]+ bytes")


def test_sizes_are_counted_whatever_the_archive_says(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("a", bytes(1000))])
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(struct.pack("<I", 1000), struct.pack("<I", 10)))
    refused(archive, "damaged")


def test_a_header_that_would_fill_the_memory(tmp_path):
    header = member("x", tarfile.XHDTYPE)
    header.size = 2**40
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**21))
    refused(archive, "a header of more than 1 MiB")


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_are_cut_off(tmp_path, kind):
    archive = write(tmp_path / kind, [(f"{k}", os.urandom(2000)) for k in range(4)])
    whole = archive.read_bytes()
    inside = [100, 700, 2560, 2700, len(whole) // 2, 5120, 5130]
    for size in inside + ([len(whole) - 5] if kind != "a.tar" else [3 * 2560, 4 * 2560, 4 * 2560 + 200]):
        archive.write_bytes(whole[:size])
        refused(archive, r"damaged or cut off|is not a \.zip")


def test_archives_with_changed_bytes(tmp_path):
    for kind in KINDS[::2]:
        archive = write(tmp_path / kind, [("a", os.urandom(20000))])
        contents = bytearray(archive.read_bytes())
        contents[10000] ^= 255
        archive.write_bytes(contents)
        refused(archive, "damaged")
    archive = write(tmp_path / "a.tar", [("a", bytes(1000)), ("b", bytes(1000))])
    contents = bytearray(archive.read_bytes())
    contents[512 + 1024 + 3] ^= 255
    archive.write_bytes(contents)
    refused(archive, "damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_is_refused_or_harmless(tmp_path, kind):
    archive = write(tmp_path / kind, [("x/a", b"12345" * 20), ("x/b" + "c" * 150, b"678" * 100), ("é", b"z")])
    whole, rng, count = archive.read_bytes(), random.Random(0), 0
    for trial in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(min(len(whole), 4500))] = rng.randrange(256)
        archive.write_bytes(damaged)
        try:
            unpack(archive, tmp_path / f"{trial}")
        except ArchiveError:
            count += 1
            assert not (tmp_path / f"{trial}").exists()
    assert 20 < count < 150
    assert len(list(tmp_path.iterdir())) == 1 + 150 - count


def test_headers_of_headers(tmp_path):
    (tmp_path / "a.tar").write_bytes(member("x", tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024))
    refused(tmp_path / "a.tar", "endlessly nested|damaged")


def test_other_archives(tmp_path):
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(1000))
    refused(tmp_path / "a.7z", r"not a \.zip, \.tar or \.tar\.gz")
    (tmp_path / "empty.zip").write_bytes(b"")
    refused(tmp_path / "empty.zip", r"not a \.zip")
    refused(write_zip(tmp_path / "nothing.zip", []), "no files")
    archive = write_zip(tmp_path / "secret.zip", [("a", b"1")])
    contents = bytearray(archive.read_bytes())
    contents[contents.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(contents)
    refused(archive, "encrypted")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a", b"1")
    refused(tmp_path / "b.zip", "unusual way")
    with pytest.raises(FileNotFoundError, match="No file"):
        unpack(tmp_path / "gone.zip", tmp_path / "target")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_leaves_nothing(tmp_path, kind, monkeypatch):
    archive = write(tmp_path / kind, FILES.items())
    calls = []

    def interrupt(*arguments):
        calls.append(list(tmp_path.rglob("*.png")))
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Limits, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "target")
    assert calls[-1], "the first file had been written"
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_a_target_that_is_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        unpack(write_zip(tmp_path / "a.zip", [("a", b"1")]), tmp_path / "target")
    assert not list((tmp_path / "elsewhere").iterdir())
