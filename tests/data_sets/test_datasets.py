"""Data sets: each layout, each way in which a folder may fail to be one, and what nobody may do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import made, sentence, texts

from bench.core.paths import ROOT
from bench.datasets import dataset, folder, librispeech
from bench.datasets.dataset import choose, find

SPEECH = ROOT.parent / "shared" / "speech"
LIBRISPEECH = SPEECH / "librispeech" / "test-other"
DIGITS = SPEECH / "digits_fsdd"


def listed(folder: Path, manifest: str | bytes, name: str = "manifest.csv", clips: str = "a.wav b.wav c.wav") -> Path:
    """The folder with a manifest and these clips."""
    return made(folder, {name: manifest, **dict.fromkeys(clips.split(), b"sound")})


def test_nothing_but_the_standard_library_is_imported() -> None:
    heavy = "{'numpy', 'datasets', 'torch', 'pandas'}"
    ask = f"import sys; from bench.datasets import dataset, hub, unzip; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "set()\n", done.stderr


# --- manifests


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("manifest.csv", "path,text\na.wav,hello there\nb.wav,you\n"),
        ("manifest.csv", b"\xef\xbb\xbfpath,text\r\na.wav,hello there\r\nb.wav,you\r\n"),  # as Excel saves it
        ("metadata.csv", "\n Speaker , File_Name , Transcription \n,a.wav,hello there\n\n,b.wav,you,,\n"),
        ("test.tsv", "client\tpath\tsentence\n7\ta.wav\thello there\n7\tb.wav\tyou\n"),
        ("manifest.jsonl", '{"audio_filepath": "a.wav", "TEXT": "hello there"}\n\n{"file": "b.wav", "text": "you"}\n'),
        ("x.JSONL", b'\xef\xbb\xbf{"audio": "./a.wav", "transcript": " hello there "}\n{"audio":"b.wav","text":"you"}'),
    ],
)
def test_a_manifest(tmp_path: Path, name: str, manifest: str | bytes) -> None:
    listed(tmp_path, manifest, name)
    data_set = find(str(tmp_path))
    assert (data_set.name, data_set.where, data_set.layout) == (tmp_path.name, str(tmp_path), "manifest")
    assert {clip.id: clip.text for clip in data_set.clips} == {"a.wav": "hello there", "b.wav": "you"}
    assert data_set.clips[0].path == tmp_path / "a.wav" and data_set.words == 3 and data_set.remarks == ()
    named = find(str(tmp_path / name))
    assert named.clips == data_set.clips and named.name == Path(name).stem


def test_quotes_in_a_csv(tmp_path: Path) -> None:
    manifest = 'path,text\na.wav, "one, ""two"""\n"b.wav",say "three"\nc.wav,"four\nfive"\n'
    assert texts(listed(tmp_path, manifest)) == {"a.wav": 'one, "two"', "b.wav": 'say "three"', "c.wav": "four\nfive"}


def test_a_quote_in_a_tsv_swallows_nothing(tmp_path: Path) -> None:
    manifest = 'path\ttext\na.wav\t"one, he said\nb.wav\t"two, ""three"""\nc.wav\t4" pipe\n'
    expected_texts = {"a.wav": '"one, he said', "b.wav": 'two, "three"', "c.wav": '4" pipe'}
    assert texts(listed(tmp_path, manifest, "manifest.tsv")) == expected_texts


def test_the_path_column_is_the_first_allowed_one(tmp_path: Path) -> None:
    assert texts(listed(tmp_path, "audio,path,sentence,text\nb.wav,a.wav,no,yes\n")) == {"a.wav": "yes"}


def test_paths_as_windows_writes_them_and_a_clips_folder(tmp_path: Path) -> None:
    listed(tmp_path, "path,text\nin\\a.wav,one\nb.mp3,two\n", clips="in/a.wav clips/b.mp3")
    assert texts(tmp_path) == {"in/a.wav": "one", "clips/b.mp3": "two"}


def test_a_split(tmp_path: Path) -> None:
    listed(tmp_path, "path,text,Split\na.wav,one,evaluate\nb.wav,two,Calibrate\nc.wav,three, Evaluate \n")
    assert list(texts(tmp_path)) == ["a.wav", "c.wav"]
    assert list(texts(tmp_path, "calibrate")) == ["b.wav"]
    assert "has no split “test”. Those that are there: “Calibrate”" in sentence(lambda: find(str(tmp_path), "test"))


def test_the_named_manifest_goes_first(tmp_path: Path) -> None:
    manifest = "path,text\na.wav,one\n"
    made(tmp_path, {"other.csv": "x", "manifest.jsonl": "x", "._manifest.csv": "x", "x.csv/readme": "x"})
    assert list(texts(listed(tmp_path, manifest))) == ["a.wav"]
    (tmp_path / "manifest.csv").rename(tmp_path / "mine.csv")
    (tmp_path / "manifest.jsonl").unlink()
    assert "holds 2 files that may be the manifest: mine.csv, other.csv" in sentence(lambda: find(str(tmp_path)))
    assert list(texts(tmp_path / "mine.csv")) == ["a.wav"]


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    rows = "a.wav,one\nx.wav,two\ny.wav,three\nb.wav,\n./a.wav,four\n,five\nz.wav,six\nc.wav\n"
    data_set = find(str(listed(tmp_path, "path,text\n" + rows)))
    assert [(clip.id, clip.text) for clip in data_set.clips] == [("a.wav", "one")]
    assert data_set.remarks == (
        "4 of 8 clips are missing (x.wav, y.wav, manifest.csv, line 7, …).",
        "2 of 8 clips have no text (b.wav, c.wav).",
        "1 of 8 clips is listed twice and kept once (./a.wav).",
    )


def test_names_that_no_file_system_takes_are_missing(tmp_path: Path) -> None:
    data_set = find(str(listed(tmp_path, f"path,text\na.wav,one\n{'x' * 5000},two\n.,three\n")))
    assert len(data_set.clips) == 1 and data_set.remarks[0].startswith("2 of 3 clips are missing")


@pytest.mark.parametrize("path", ["../x.wav", "in/../../x.wav", "..\\x.wav", "/etc/hosts", "C:\\x.wav", "\\\\s\\x.wav"])
def test_a_path_that_leaves_the_folder(tmp_path: Path, path: str) -> None:
    made(tmp_path, {"x.wav": "secret"})
    message = sentence(lambda: find(str(listed(tmp_path / "set", f"path,text\na.wav,one\n{path},two\n"))))
    assert message.startswith(f"manifest.csv, line 3: “{path}” leads out of the data set's folder.")


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    made(tmp_path, {"x.wav": "secret"})
    folder = listed(tmp_path / "set", "path,text\na.wav,one\nlink.wav,two\n")
    (folder / "link.wav").symlink_to("../x.wav")
    assert "“link.wav” leads out" in sentence(lambda: find(str(folder)))
    (folder / "link.wav").unlink()
    (folder / "link.wav").symlink_to("a.wav")
    assert list(texts(folder)) == ["a.wav", "link.wav"]


@pytest.mark.parametrize(
    ("name", "manifest", "message"),
    [
        ("manifest.csv", "path;text\na.wav;one\n", "no column of audio files; the columns are path;text. Allowed: pat"),
        ("manifest.csv", "path,words\na.wav,one\n", "line 2: there is no column of texts; the columns are path, words"),
        ("manifest.csv", "path,text\na.wav,yes, sir\n", "line 2: 3 cells under 2 columns. Put a text with commas into"),
        ("manifest.tsv", "path\ttext\na.wav\tyes\tsir\n", "line 2: 3 cells under 2 columns. Allowed: no tab"),
        ("manifest.csv", 'path,text\na.wav,"one\nb.wav,two\n', "this is no row of a table (unexpected end of data)"),
        ("manifest.csv", 'path,text\na.wav,"one" two\n', "manifest.csv, line 2: this is no row of a table"),
        ("manifest.csv", "path,text\n", "has no clip that can be used. It lists none."),
        ("manifest.csv", b"", "It lists none."),
        ("manifest.csv", "path,text\nx.wav,one\n", "1 of 1 clips is missing (x.wav). Paths count from the manifest's"),
        ("manifest.csv", b"path,text\na.wav,caf\xe9\n", "manifest.csv is not UTF-8"),
        ("manifest.csv", "path,text\na\0.wav,one\n", "line 2: “a\0.wav” leads out"),
        ("manifest.jsonl", '{"path": "a.wav", "text": "one"}\n{oops\n', "manifest.jsonl, line 2: not JSON (Expecting"),
        ("manifest.jsonl", "[" * 100_000, "line 1: not JSON (maximum recursion"),
        ("manifest.jsonl", "1" * 5000, "line 1: not JSON (Exceeds the limit"),
        ("manifest.jsonl", '["a.wav", "one"]\n', "line 1: got list. Allowed: one object a line"),
        ("manifest.jsonl", '{"audio": {"path": "a.wav"}, "text": "x"}', "“audio” holds dict. Allowed: a text."),
        ("manifest.jsonl", '{"path": "a.wav", "text": "\\ud800"}', "line 1: 'a.wav' or its text is not Unicode"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, name: str, manifest: str | bytes, message: str) -> None:
    assert message in sentence(lambda: find(str(listed(tmp_path, manifest, name))))


def test_limits_of_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, "path,text,split\na.wav,one,x\nb.wav,two,evaluate\nc.wav,three,evaluate\n")
    monkeypatch.setattr(dataset, "MAX_CLIPS", 2)
    assert list(texts(tmp_path)) == ["b.wav", "c.wav"]
    monkeypatch.setattr(dataset, "MAX_CLIPS", 1)
    assert "lists more than 1 clips" in sentence(lambda: find(str(tmp_path)))
    monkeypatch.setattr(folder, "MAX_MANIFEST_BYTES", 10)
    assert "allowed: 0 MB" in sentence(lambda: find(str(tmp_path)))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("absent", "There is no folder or file “absent”. Allowed: the path of a folder"),
        ("", "There is no folder or file “”."),
        ("a\0b", "can't be read (embedded null byte)"),
        ("x" * 5000, "can't be read"),
        ("empty", "is empty. Put audio files and a manifest.csv there."),
        ("plain", "holds no data set of a known layout. Looked for: manifest.csv, manifest.tsv"),
        ("plain/a.wav", "a.wav is no manifest. Allowed: .csv, .tsv, .jsonl, or a folder."),
        ("closed/manifest.csv", "There is no folder or file"),  # a pipe would never end
    ],
)
def test_places_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str) -> None:
    monkeypatch.chdir(made(tmp_path, {"plain/a.wav": "x", "closed/b.wav": "x"}))
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "closed" / "manifest.csv")
    assert message in sentence(lambda: find(where))


# --- LibriSpeech


@pytest.mark.parametrize("top", ["", "LibriSpeech/test-x/"])
def test_librispeech(tmp_path: Path, top: str) -> None:
    lines = "1-2-0000 HELLO THERE\n1-2-0001 YOU\n\n1-2-0002 GONE\n1-2-0003\n"
    files = {f"{top}1/2/1-2.trans.txt": lines, f"{top}SPEAKERS.TXT": "x"}
    made(tmp_path, files | {f"{top}1/2/1-2-000{n}.flac": "x" for n in (0, 1, 3)})
    data_set = find(str(tmp_path))
    assert data_set.layout == "LibriSpeech" and data_set.words == 3
    assert texts(tmp_path) == {f"{top}1/2/1-2-0000.flac": "HELLO THERE", f"{top}1/2/1-2-0001.flac": "YOU"}
    assert data_set.remarks == (
        f"1 of 4 clips is missing ({top}1/2/1-2-0002.flac).",
        f"1 of 4 clips has no text ({top}1/2/1-2-0003.flac).",
    )


def test_librispeech_that_climbs_or_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, {"x.flac": "secret", "set/1/2/1-2.trans.txt": "../../../x HELLO\n"})
    message = sentence(lambda: find(str(tmp_path / "set")))
    assert message.startswith("1-2.trans.txt, line 1: “1/2/../../../x.flac” leads out")
    monkeypatch.setattr(librispeech, "MAX_ENTRIES", 2)
    assert "holds more than 2 files; allowed: 100,000 clips" in sentence(lambda: find(str(tmp_path)))


@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason="no sample of LibriSpeech beside the repository")
def test_a_real_librispeech() -> None:
    data_set = find(str(LIBRISPEECH))
    assert (data_set.name, len(data_set.clips), data_set.words, data_set.remarks) == ("test-other", 20, 372, ())
    assert data_set.clips[0].id == "1688/142285/1688-142285-0000.flac"
    assert data_set.clips[0].text.startswith("THERE'S IRON THEY SAY")


@pytest.mark.skipif(not DIGITS.is_dir(), reason="no digits beside the repository")
def test_a_real_manifest() -> None:
    data_set = find(str(DIGITS))
    assert (len(data_set.clips), data_set.words, data_set.remarks) == (2000, 2000, ())


def test_the_shipped_clips_have_both_splits() -> None:
    if not (dataset.bundled() / "manifest.csv").is_file():
        pytest.skip("this checkout has no evaluation clips")
    apart = texts(dataset.bundled(), "evaluate").keys() & texts(dataset.bundled(), "calibrate").keys()
    assert not apart and find(str(dataset.bundled())).remarks == ()


# --- digest and subset


def test_the_digest_tells_a_change(tmp_path: Path) -> None:
    listed(tmp_path, "path,text\na.wav,one\nb.wav,two\n")
    first = find(str(tmp_path))
    assert first.digest == find(str(tmp_path)).digest and len(first.digest) == 64
    seen = {first.digest}
    made(tmp_path, {"b.wav": "longer sound"})
    seen.add(first.digest)
    (tmp_path / "b.wav").unlink()
    seen.add(first.digest)
    listed(tmp_path, "path,text\na.wav,one\nb.wav,too\n")
    seen.add(find(str(tmp_path)).digest)
    seen.add(choose(first, 1, 0).digest)
    assert len(seen) == 5


def test_a_subset_is_seeded_ordered_and_grows(tmp_path: Path) -> None:
    names = [f"{n:02}.wav" for n in range(50)]
    folder = listed(tmp_path, "path,text\n" + "".join(f"{n},x\n" for n in names), clips=" ".join(names))
    whole = find(str(folder))
    ten = choose(whole, 10, 1)
    ids = [clip.id for clip in ten.clips]
    assert ten == choose(whole, 10, 1) and len(ids) == 10 and ids == sorted(ids)
    assert ten.remarks == ("10 of 50 clips were chosen, with seed 1.",)
    assert set(ids) < {clip.id for clip in choose(whole, 20, 1).clips}
    assert ids != [clip.id for clip in choose(whole, 10, 2).clips]
    assert choose(whole, 50, 1) is whole and choose(whole, 99, 1) is whole
    assert "Got a limit of 0 clips. Allowed: 1 or more." in sentence(lambda: choose(whole, 0, 1))
