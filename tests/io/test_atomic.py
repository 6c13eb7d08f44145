"""atomic_path and remove_partials: whole or absent, and nothing of dead runs stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esp_medsam_monai.io.atomic import atomic_path, remove_partials


def partial(folder: Path, host: str, pid: int, name: str = "a.nii.gz") -> Path:
    path = folder / f".partial-{host}-{pid}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


def this_host(folder: Path) -> str:
    with atomic_path(folder / "x") as temporary:
        temporary.write_bytes(b"")
        return temporary.name.split("-")[1]


@pytest.fixture
def dead_pid() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_values_file_is_hidden_until_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
    assert target.read_text(encoding="utf-8") == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_bad_input_broken_write_keeps_the_former_file(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("former", encoding="utf-8")

    def half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(type(error)):
        half()
    assert target.read_text(encoding="utf-8") == "former"
    assert list(tmp_path.iterdir()) == [target]


def test_bad_input_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems find out at fsync that there was no room."""
    target = tmp_path / "a.txt"
    target.write_text("former", encoding="utf-8")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), atomic_path(target) as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "former"
    assert list(tmp_path.iterdir()) == [target]


def test_values_contents_and_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert synced == [(tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o007, 0o660)])
def test_values_permissions_come_from_the_umask(umask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("whole", encoding="utf-8")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("name", ["Ä" * 123 + "b.nii.gz", "脳" * 82 + ".nii.gz", "a" * 255])
def test_values_long_names_fit(name: str, tmp_path: Path) -> None:
    with atomic_path(tmp_path / name) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        assert temporary.name.endswith(name[-7:])
        temporary.write_text("whole", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_values_long_names_with_the_same_end_differ(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("x" + "a" * 254)) as one, atomic_path(tmp_path / ("y" + "a" * 254)) as other:
        assert one != other
        one.touch()
        other.touch()


def test_bad_input_block_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_bad_input_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot write a\.txt .*choose another output folder"):
        atomic_path(tmp_path / "out" / "a.txt").__enter__()


def test_bad_input_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not stop root, as which tests may run: so the system's answer is played.
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PermissionError, match=r"cannot write a\.txt to its folder") as caught:
        atomic_path(tmp_path / "a.txt").__enter__()
    assert caught.value.filename == str(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot be asked whether a process lives")
def test_values_remains_of_a_dead_run_go(tmp_path: Path, dead_pid: int) -> None:
    host = this_host(tmp_path)
    dead = [partial(tmp_path, host, dead_pid), partial(tmp_path / "sub" / "deep", host, dead_pid, "b-1-c.nii.gz")]
    kept = [partial(tmp_path, host, os.getppid()), tmp_path / "a.nii.gz", tmp_path / f".partial-{dead_pid}"]
    for path in kept:
        path.touch()
    assert remove_partials(tmp_path) == len(dead)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in kept)
    assert remove_partials(tmp_path) == 0


def test_values_what_is_being_written_stays(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole", encoding="utf-8")
        # A file of the same number that this process does not know is of a former one, as in a container.
        former = temporary.with_name(temporary.name.replace("a.txt", "b.txt"))
        former.touch()
        assert remove_partials(tmp_path) == (0 if os.name == "nt" else 1)
        assert temporary.exists()
    assert (tmp_path / "a.txt").exists()


def test_values_other_hosts_have_a_day(tmp_path: Path, dead_pid: int) -> None:
    fresh, old = partial(tmp_path, "elsewhere", dead_pid), partial(tmp_path, "elsewhere", dead_pid, "old")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    assert remove_partials(tmp_path) == 1
    assert fresh.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot be asked whether a process lives")
@pytest.mark.parametrize("answer", [PermissionError, OverflowError])
def test_values_files_of_somebody_else_s_process_stay(
    answer: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system does not let us ask: the process lives, or its number is none of this machine's."""

    def refuse(pid: int, signal: int) -> None:
        raise answer

    path = partial(tmp_path, this_host(tmp_path), os.getpid() + 1)
    monkeypatch.setattr(os, "kill", refuse)
    assert remove_partials(tmp_path) == 0
    assert path.exists()


def test_bad_input_missing_folder(tmp_path: Path) -> None:
    assert remove_partials(tmp_path / "nowhere") == 0
