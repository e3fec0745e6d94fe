"""The write_files action: many files in one task, with check mode, diff and pruning."""

from pathlib import Path
from typing import Any

from support.play import Play, run_tasks


def write(folder: Path, *arguments: str, **wanted: Any) -> Play:
    tasks = [{"name": "Write", "write_files": wanted, "register": "result"}]
    play = run_tasks(folder, tasks, *arguments)
    assert play.code == 0, play.output
    return play


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_folders_files_modes_and_the_second_run(tmp_path: Path) -> None:
    target = tmp_path / "target"
    wanted: dict[str, Any] = {
        "directories": [{"path": str(target / "private"), "mode": "0700"}],
        "contents": [
            {"dest": str(target / "private" / "a"), "content": "grün\n", "mode": "0600"},
            {"dest": str(target / "b"), "content": "", "mode": "0644"},
        ],
    }
    assert write(tmp_path, **wanted).result["changed"]
    assert (target / "private").stat().st_mode & 0o777 == 0o700
    assert (target / "private" / "a").stat().st_mode & 0o777 == 0o600
    assert (target / "private" / "a").read_text() == "grün\n"
    before = (target / "b").stat().st_ino
    assert not write(tmp_path, **wanted).result["changed"]
    assert (target / "b").stat().st_ino == before
    (target / "b").chmod(0o600)
    (target / "private" / "a").write_text("other")
    again = write(tmp_path, **wanted).result
    assert set(again["written"]) == {str(target / "b"), str(target / "private" / "a")}
    assert not [name for name in names(target) if ".write_files" in name]


def test_check_mode_tells_and_does_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old.json").write_text("{}")
    wanted: dict[str, Any] = {
        "directories": [{"path": str(target / "new"), "mode": "0755"}],
        "contents": [{"dest": str(target / "new" / "a"), "content": "text-a\n", "mode": "0600"}],
        "prune": [{"path": str(target), "pattern": "*.json", "keep": []}],
    }
    play = write(tmp_path, "--check", "--diff", **wanted)
    assert play.result["changed"]
    assert "text-a" in play.output
    assert names(target) == {"old.json"}


def test_a_secret_is_in_no_diff_and_is_kept(tmp_path: Path) -> None:
    dest = tmp_path / "secret"
    wanted = {"dest": str(dest), "mode": "0600", "secret": True, "force": False}
    play = write(tmp_path, "--diff", contents=[{**wanted, "content": "canary-1"}])
    assert "canary-1" not in play.output
    play = write(tmp_path, "--diff", contents=[{**wanted, "content": "canary-2"}])
    assert "canary-" not in play.output
    assert not play.result["changed"]
    assert dest.read_text() == "canary-1"


def test_templates_one_and_each(tmp_path: Path) -> None:
    (tmp_path / "one.j2").write_text("sum {{ 1 + 1 }}\n")
    (tmp_path / "each.j2").write_text("{{ item.name }} {{ item.size }}\n")
    write(
        tmp_path,
        templates=[
            {"src": str(tmp_path / "one.j2"), "dest": str(tmp_path / "one"), "mode": "0644"},
            {
                "src": str(tmp_path / "each.j2"),
                "dest": str(tmp_path / "{name}.txt"),
                "mode": "0644",
                "each": [{"name": "x", "size": 1}, {"name": "y", "size": 2}],
            },
        ],
    )
    assert (tmp_path / "one").read_text() == "sum 2\n"
    assert (tmp_path / "x.txt").read_text() == "x 1\n"
    assert (tmp_path / "y.txt").read_text() == "y 2\n"


def test_trees_leave_caches_behind(tmp_path: Path) -> None:
    source = tmp_path / "package"
    for name in ("a.py", "inner/b.py", "__pycache__/a.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    target = tmp_path / "target"
    write(tmp_path, trees=[{"src": [str(source)], "dest": str(target)}])
    files = {name for name in names(target) if (target / name).is_file()}
    assert files == {"package/a.py", "package/inner/b.py"}


def test_prune_removes_what_nobody_keeps(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("llama-a.conf", "llama-b.conf", "proxy.conf"):
        (folder / name).touch()
    prune = [{"path": str(folder), "pattern": "llama-*", "keep": ["llama-a.conf"]}]
    assert write(tmp_path, prune=prune).result["removed"] == [str(folder / "llama-b.conf")]
    assert names(folder) == {"llama-a.conf", "proxy.conf"}
    absent = [{"path": str(tmp_path / "absent"), "pattern": "*", "keep": []}]
    assert not write(tmp_path, prune=absent).result["changed"]


def test_what_cannot_be_written_is_told_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wanted = [{"dest": str(tmp_path / "file" / "below"), "content": "", "mode": "0644"}]
    tasks = [{"name": "Write", "write_files": {"contents": wanted}}]
    play = run_tasks(tmp_path, tasks)
    assert play.code != 0
    assert "could not be written" in play.output
    assert "Traceback" not in play.output


def test_a_whole_file_replaces_the_old_one(tmp_path: Path) -> None:
    """Readers see the old or the new content, never half of it, and links are not followed."""
    dest = tmp_path / "config"
    dest.write_text("old")
    with dest.open() as reader:
        write(tmp_path, contents=[{"dest": str(dest), "content": "new", "mode": "0644"}])
        assert reader.read() == "old"
    assert dest.read_text() == "new"


def test_a_link_is_replaced_and_a_second_run_leaves_it(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = target / "current"
    link.symlink_to("old")
    wanted: dict[str, Any] = {"links": [{"path": str(link), "to": "new"}]}
    assert write(tmp_path, **wanted).result["written"] == [str(link)]
    assert str(link.readlink()) == "new"
    assert not write(tmp_path, **wanted).result["changed"]
    assert names(target) == {"current"}


def test_what_is_refused_does_not_replace_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text("{}")
    content: dict[str, Any] = {"dest": str(file), "content": "{broken", "mode": "0644"}
    content["validate"] = ["python3", "-m", "json.tool", "%s"]
    play = run_tasks(tmp_path, [{"name": "Write", "write_files": {"contents": [content]}}])
    assert play.code != 0
    assert "left as it is" in play.output
    assert file.read_text() == "{}"
    content["content"] = '{"good": 1}'
    assert write(tmp_path, contents=[content]).result["changed"]
    assert file.read_text() == '{"good": 1}'
    assert not [name for name in names(tmp_path) if ".write_files" in name]
