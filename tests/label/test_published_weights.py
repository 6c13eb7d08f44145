"""Publishing weights and the way back, also when the process is killed in the middle of it. Without MONAI Label."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esp_medsam_monai.bundle import stated_sha256, verified_sha256, write_sha256
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.claims import lock_in
from esp_medsam_monai.label.published_weights import publish, repair, rollback

FILE_EVENTS = {"open", "os.rename", "os.remove", "shutil.copyfile"}
KILLED = 9


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A served bundle; what weights hold does not matter here."""
    models = tmp_path / "model" / "esp_medsam" / "models"
    models.mkdir(parents=True)
    (models / "model.pt").write_bytes(b"first")
    write_sha256(models / "model.pt")
    return models.parent


def new(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    return path


def served(bundle: Path) -> dict[str, bytes]:
    """What lies in ``models`` besides hashes."""
    return {path.name: path.read_bytes() for path in (bundle / "models").iterdir() if not path.name.endswith(".sha256")}


def weights_files(bundle: Path) -> list[Path]:
    return [bundle / "models" / name for name in served(bundle)]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_is_published_is_served_and_the_first_weights_stay(bundle: Path, tmp_path: Path) -> None:
    assert publish(bundle, new(tmp_path, b"second")) == digest(b"second")
    publish(bundle, new(tmp_path, b"third"))
    assert served(bundle) == {"model.pt": b"third", "model.pt.previous": b"second", "model.pt.shipped": b"first"}
    for path in weights_files(bundle):
        assert stated_sha256(path) == digest(path.read_bytes()), path


def test_monai_label_offers_none_of_the_kept_files(bundle: Path, tmp_path: Path) -> None:
    publish(bundle, new(tmp_path, b"second"))
    assert [path.name for path in (bundle / "models").glob("*.pt")] == ["model.pt"]


def test_rollback_goes_to_the_first_weights_or_to_those_before_and_can_be_undone(bundle: Path, tmp_path: Path) -> None:
    for content in (b"second", b"third"):
        publish(bundle, new(tmp_path, content))
    assert rollback(bundle) == digest(b"first")
    assert served(bundle)["model.pt"] == b"first" and served(bundle)["model.pt.previous"] == b"third"
    rollback(bundle, "previous")
    assert served(bundle) == {"model.pt": b"third", "model.pt.previous": b"first", "model.pt.shipped": b"first"}


def test_a_changed_file_has_a_new_time(bundle: Path, tmp_path: Path) -> None:
    """MONAI Label loads weights again when their time of change is another."""
    model = bundle / "models" / "model.pt"
    os.utime(model, (1e9, 1e9))
    publish(bundle, new(tmp_path, b"second"))
    assert model.stat().st_mtime > 1e9
    os.utime(model, (2e9, 2e9))
    rollback(bundle)
    assert 1e9 < model.stat().st_mtime < 2e9


def test_weights_that_were_replaced_during_a_training_are_kept(bundle: Path, tmp_path: Path) -> None:
    publish(bundle, new(tmp_path, b"second"), started_from=digest(b"first"))
    with pytest.raises(InputRefused, match="WEIGHTS_CHANGED"):
        publish(bundle, new(tmp_path, b"third"), started_from=digest(b"first"))
    assert served(bundle)["model.pt"] == b"second"


def test_what_cannot_be_done_is_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.pt\.shipped"):
        rollback(bundle)
    with pytest.raises(ValueError, match="shipped or previous"):
        rollback(bundle, "yesterday")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        publish(tmp_path, new(tmp_path, b"second"))
    (bundle / "models" / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="SHA-256"):
        publish(bundle, new(tmp_path, b"second"))
    assert served(bundle) == {"model.pt": b"damaged"}


def test_damaged_weights_are_no_way_back(bundle: Path, tmp_path: Path) -> None:
    publish(bundle, new(tmp_path, b"second"))
    (bundle / "models" / "model.pt.shipped").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.pt\.shipped is not the file"):
        rollback(bundle)
    assert served(bundle)["model.pt"] == b"second"


def killed_at(event: int, action: Callable[[], object]) -> bool:
    """Run an action in a copy of this process that is ended at its n-th touch of a file; False: it came through."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(name: str, args: tuple[object, ...]) -> None:
            nonlocal count
            count += name in FILE_EVENTS
            if count == event:
                os._exit(KILLED)

        sys.addaudithook(hook)
        action()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", ["publish", "rollback"])
def test_a_kill_at_any_moment_leaves_weights_that_are_whole_and_not_locked_out(
    bundle: Path, tmp_path: Path, step: str
) -> None:
    models, other = bundle / "models", new(tmp_path, b"second")
    if step == "rollback":
        publish(bundle, other)
    before = served(bundle)["model.pt"]
    actions = {"publish": lambda: publish(bundle, other), "rollback": lambda: rollback(bundle)}
    after = {"publish": b"second", "rollback": b"first"}[step]
    state = {path.name: path.read_bytes() for path in models.iterdir()}
    kills, repaired, event = 0, 0, 1
    while killed_at(event, actions[step]):
        kills, event = kills + 1, event + 1
        assert served(bundle)["model.pt"] in (before, after)
        assert served(bundle).get("model.pt.shipped", b"first") == b"first"
        for path in weights_files(bundle):
            verified_sha256(path)  # raises when a stated hash is another
        repaired += repair(bundle)
        assert not repair(bundle)  # all is done
        assert stated_sha256(models / "model.pt") == digest(served(bundle)["model.pt"])
        actions[step]()  # a kill hinders nobody later
        assert served(bundle)["model.pt"] == after and served(bundle)["model.pt.shipped"] == b"first"
        for path in models.iterdir():
            path.unlink()
        for name, content in state.items():
            (models / name).write_bytes(content)
    assert kills > 10 and repaired > 1
    assert served(bundle)["model.pt"] == after


def test_repair_leaves_a_living_process_alone(bundle: Path, tmp_path: Path) -> None:
    publish(bundle, new(tmp_path, b"second"))
    (bundle / "models" / "model.pt.sha256").unlink()
    program = "import sys; from esp_medsam_monai.label.published_weights import repair; print(repair(sys.argv[1]))"
    with lock_in(bundle, "weights"):
        done = subprocess.run([sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert repair(bundle) and stated_sha256(bundle / "models" / "model.pt") == digest(b"second")


def test_repair_states_no_hash_for_a_users_own_weights(bundle: Path) -> None:
    (bundle / "models" / "model.pt.sha256").unlink()
    assert not repair(bundle)
    assert list(served(bundle)) == ["model.pt"] and stated_sha256(bundle / "models" / "model.pt") is None


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "esp_medsam_monai", "label-rollback", *words]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    publish(bundle, new(tmp_path, b"second"))
    done = command(str(tmp_path))
    assert done.returncode == 0 and digest(b"first") in done.stdout
    assert served(bundle)["model.pt"] == b"first"
    done = command(str(tmp_path / "model"))
    assert done.returncode == 1 and "is not the folder of a server" in done.stderr
    assert "Traceback" not in done.stderr
