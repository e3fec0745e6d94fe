"""What goes into a bundle, how it is written, and how one that was unpacked is checked."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from llamakit.bundle import archive, contents, portable, wheels
from llamakit.bundle.archive import Member, check_room, write_archive
from llamakit.bundle.check import check_files, check_use, own_files
from llamakit.bundle.cli import OWN_PYTHON, versions
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import LOCKS, Manifest, packages, read_manifest
from llamakit.bundle.models import choose_models
from llamakit.bundle.unpack_cli import take_models
from llamakit.config.entries import Config
from llamakit.config.models_file import load_models
from support.models import script_model, sharded_model

ROOT = Path(__file__).parents[3]


def manifest() -> Manifest:
    locks = {
        lock: hashlib.sha256((ROOT / "requirements" / f"{lock}.txt").read_bytes()).hexdigest()
        for lock in LOCKS
    }
    return Manifest("v1", "x86_64", ["3.11", "3.13"], locks, {"m": ["bundle/models/m.gguf"]})


def silent(_done: int) -> None:
    """Progress nobody watches."""


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A bundle that was written and unpacked again."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o700)
    (source / "m.gguf").write_bytes(b"weights" * 1000)
    (source / "link").symlink_to("run.sh")
    members = [
        Member("run.sh", source / "run.sh", "the kit"),
        Member("link", source / "link", "the kit"),
        Member("bundle/models/m.gguf", source / "m.gguf", "model m"),
    ]
    for lock in LOCKS:
        (source / lock).write_bytes(b"wheels")
        members.append(Member(packages("3.11", lock), source / lock, lock))
    write_archive(tmp_path / "kit.tar", members, manifest(), silent)
    subprocess.run(["tar", "--extract", "--file=kit.tar"], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / "requirements", tmp_path / "kit" / "requirements")
    return tmp_path / "kit"


def test_what_was_packed_comes_out_with_its_rights_and_links(unpacked: Path) -> None:
    assert (unpacked / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (unpacked / "link").readlink() == Path("run.sh")
    found = read_manifest(unpacked)
    assert [file.path for file in found.files][:2] == ["run.sh", "bundle/models/m.gguf"]
    check_files(unpacked, own_files(found), silent)
    check_use(unpacked, found, "3.11", "x86_64", LOCKS)


def test_nothing_is_left_of_an_archive_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "_add_text", full)
    with pytest.raises(BundleError, match="no room on the disk"):
        write_archive(tmp_path / "kit.tar", [], manifest(), silent)
    monkeypatch.setattr(archive, "_add_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "kit.tar", [], manifest(), silent)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_what_models_yaml_says_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"other")
    member = Member("bundle/models/m.gguf", tmp_path / "m.gguf", "model m", "0" * 64)
    with pytest.raises(BundleError, match="has the SHA-256"):
        write_archive(tmp_path / "kit.tar", [member], manifest(), silent)
    assert not (tmp_path / "kit.tar").exists()


def test_a_damaged_file_is_found(unpacked: Path) -> None:
    file = unpacked / packages("3.11", "proxy")
    file.write_bytes(b"whEels")
    with pytest.raises(BundleError, match="SHA-256"):
        check_files(unpacked, own_files(read_manifest(unpacked)), silent)
    file.unlink()
    with pytest.raises(BundleError, match="is not there"):
        check_files(unpacked, own_files(read_manifest(unpacked)), silent)


def test_a_manifest_of_another_kit_is_refused(unpacked: Path) -> None:
    file = unpacked / "bundle" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(BundleError, match="can't be read"):
        read_manifest(unpacked)


@pytest.mark.parametrize(
    ("python", "machine", "said"),
    [("3.12", "x86_64", "--python 3.11,3.13,3.12"), ("3.11", "aarch64", "aarch64")],
)
def test_a_machine_it_has_nothing_for_is_told(
    unpacked: Path, python: str, machine: str, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        check_use(unpacked, read_manifest(unpacked), python, machine, LOCKS)


def test_a_lock_that_was_changed_since_is_told(unpacked: Path) -> None:
    with (unpacked / "requirements" / "proxy.txt").open("a") as lock:
        lock.write("# changed\n")
    with pytest.raises(BundleError, match=r"proxy.txt is not the one"):
        check_use(unpacked, read_manifest(unpacked), "3.11", "x86_64", LOCKS)


def test_models_are_taken_once_and_what_is_there_stays(unpacked: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "m.gguf"
    take_models(unpacked, read_manifest(unpacked), tmp_path / "models")
    assert target.samefile(unpacked / "bundle" / "models" / "m.gguf")
    target.unlink()
    target.write_bytes(b"mine")
    take_models(unpacked, read_manifest(unpacked), tmp_path / "models")
    assert target.read_bytes() == b"mine"


def test_a_lock_is_cut_to_another_python_than_this_one() -> None:
    lock = (
        "# a comment\n"
        "numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:aa \\\n"
        "    --hash=sha256:ab\n    # via x\n"
        "numpy==2.5.5 ; python_full_version >= '3.12' \\\n    --hash=sha256:bb\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:cc\n"
        "psycopg[binary]==3.3.9 \\\n    --hash=sha256:dd\n"
    )
    assert wheels.requirements_for(lock, "3.11", "x86_64").splitlines() == [
        "numpy==2.4.6 --hash=sha256:aa --hash=sha256:ab",
        "psycopg[binary]==3.3.9 --hash=sha256:dd",
    ]
    assert "numpy==2.5.5" in wheels.requirements_for(lock, "3.13", "x86_64")


@pytest.mark.parametrize("lock", [*LOCKS, "pip"])
def test_every_lock_can_be_cut(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    for line in wheels.requirements_for(text, "3.13", "x86_64").splitlines():
        assert "==" in line.split()[0]
        assert "--hash=" in line


@pytest.mark.parametrize("given", ["", "3.9", "3.11;3.13", "python3.11"])
def test_wrong_versions_of_python_are_refused(given: str) -> None:
    with pytest.raises(BundleError, match="--python"):
        versions(given)


def test_the_own_python_is_always_among_them() -> None:
    assert OWN_PYTHON in versions("3.13")
    assert versions("3.13, 3.11")[0] == "3.11"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    script_model(folder)
    (folder / "shard").mkdir()
    sharded_model(folder / "shard")
    return folder


def listed(tmp_path: Path, *entries: str) -> Config:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n" + "".join(f"  - {entry}\n" for entry in entries))
    return Config(file, tuple(load_models(file)))


SCRIPT = "{id: script, source: {path: script.gguf}}"
SHARD = "{id: shard, source: {url: 'http://127.0.0.1:9/shard-00001-of-00003.gguf'}}"
AWAY = "{id: away, source: {url: 'http://127.0.0.1:9/away.gguf'}}"
ELSEWHERE = "{id: elsewhere, source: {path: FILE}}"


def test_the_listed_models_that_are_here_are_packed_and_the_rest_is_told(
    models: Path, tmp_path: Path
) -> None:
    other = script_model(tmp_path, "other.gguf")
    entries = (SCRIPT, SHARD, AWAY, ELSEWHERE.replace("FILE", str(other)))
    chosen = choose_models(listed(tmp_path, *entries), models, [])
    assert list(chosen.models) == ["script", "shard"]
    assert [member.path for member in chosen.members] == [
        "bundle/models/script.gguf",
        *(f"bundle/models/shard/shard-0000{number}-of-00003.gguf" for number in (1, 2, 3)),
    ]
    away, elsewhere = chosen.left_out
    assert away.startswith("away: missing")
    assert "which each host has for itself" in elsewhere


def test_a_path_that_leads_out_of_the_folder_is_elsewhere(models: Path, tmp_path: Path) -> None:
    """And one that leads out and in again is packed without the way."""
    script_model(tmp_path / "other")
    out = ELSEWHERE.replace("FILE", "../other/script.gguf")
    back = SCRIPT.replace("script.gguf", "shard/../script.gguf")
    chosen = choose_models(listed(tmp_path, out, back), models, [])
    assert [member.path for member in chosen.members] == ["bundle/models/script.gguf"]
    assert chosen.left_out[0].startswith("elsewhere: ")


def test_only_named_models_are_packed(models: Path, tmp_path: Path) -> None:
    chosen = choose_models(listed(tmp_path, SCRIPT, SHARD), models, ["shard"])
    assert list(chosen.models) == ["shard"]
    assert not chosen.left_out


def test_a_named_model_that_hosts_have_for_themselves_is_an_error(
    models: Path, tmp_path: Path
) -> None:
    other = script_model(tmp_path, "other.gguf")
    config = listed(tmp_path, ELSEWHERE.replace("FILE", str(other)))
    with pytest.raises(BundleError, match="elsewhere"):
        choose_models(config, models, ["elsewhere"])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / ".gitignore").write_text("/secrets\n/runtime\n")
    for name in ("site.yml", "secrets/gpu01/llama_api_key", "runtime/state.json", "gone.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("before\n")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    (folder / "site.yml").write_text("edited\n")
    (folder / "gone.yml").unlink()
    (folder / "host_vars.yml").write_text("new\n")
    return folder


def test_the_checkout_is_packed_as_it_is_without_secrets(clone: Path) -> None:
    members, untracked = contents.checkout_files(clone)
    assert [member.path for member in members] == [".gitignore", "site.yml"]
    assert untracked == ["host_vars.yml"]
    assert contents.version_of(clone).endswith("-changed")


def test_no_clone_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="a clone"):
        contents.checkout_files(tmp_path)


def test_wheels_are_found_by_kind(tmp_path: Path) -> None:
    pin = (ROOT / "requirements" / "llama_cpp.txt").read_text().split()[0].split("==")[1]
    name = f"llama_cpp_python-{pin}-py3-none-linux_x86_64.whl"
    for folder, content in (
        ("given", "given"),
        ("runtime/wheelhouse/cpu-x86_64-debian12", "built"),
        ("runtime/wheelhouse/cpu-x86_64-debian13", "given"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(content)
    (tmp_path / "given" / name.replace(pin, "0.0.1")).touch()
    runtime = tmp_path / "runtime"
    found = contents.built_wheels(ROOT, runtime, str(tmp_path / "given"), "x86_64")
    assert [member.path for member in found] == [
        f"bundle/wheelhouse/any/{name}",
        f"bundle/wheelhouse/cpu-x86_64-debian12/{name}",
    ]
    with pytest.raises(BundleError, match="no wheel of llama-cpp-python"):
        contents.built_wheels(ROOT, runtime, "", "aarch64")


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"about 1000000.0 GB"):
        check_room(tmp_path / "kit.tar", 10**15)
    with pytest.raises(BundleError, match="a folder that can be written to"):
        check_room(tmp_path / "none" / "kit.tar", 1)


def test_a_wheel_carries_the_library_and_its_record(tmp_path: Path) -> None:
    library, wheel = tmp_path / "libgomp.so.1", tmp_path / "w.whl"
    library.write_bytes(b"\x7fELF GLIBC_2.4 GLIBC_2.34 GLIBC_2.17")
    assert portable.needed_glibc(library.read_bytes()) == 34
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("llama_cpp/__init__.py", "")
        made.writestr("w-1.dist-info/RECORD", "llama_cpp/__init__.py,,\n")
    portable.with_library(wheel, library, tmp_path / "once.whl")
    portable.with_library(tmp_path / "once.whl", library, tmp_path / "twice.whl")
    with zipfile.ZipFile(tmp_path / "twice.whl") as made:
        assert made.namelist().count(portable.PLACE) == 1
        assert made.read(portable.PLACE) == library.read_bytes()
        record = made.read("w-1.dist-info/RECORD").decode().splitlines()
    assert record[0].startswith(f"{portable.PLACE},sha256=")
    assert len(record) == 2
