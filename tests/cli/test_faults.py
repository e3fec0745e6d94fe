"""What goes wrong is told on one screen with what to do, and what ran keeps running."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.conftest import MODELS, ROOT_ONLY, NewCheckout
from support.checkout import Checkout, Run, listening

SCREEN = 24  # lines


def told(run: Run, *words: str) -> None:
    """The command failed, said each of the words, and needed no more than a screen for it."""
    assert run.code != 0, run.screen
    for word in words:
        assert word in run.screen, run.screen
    assert len(run.screen.splitlines()) <= SCREEN, run.screen
    assert "Traceback" not in run.screen


@pytest.fixture
def undisturbed(three: Checkout) -> Iterator[Checkout]:
    """The running checkout; afterwards every service must be the process it was."""
    before = three.pids()
    yield three
    (three.path / "config" / "models.yaml").write_text(MODELS)
    assert three.pids() == before
    assert three.all_up()


SECOND = "  - id: second\n    source: {path: embed.gguf}\n"
BROKEN = {
    "not YAML": (MODELS + "  - id: [unclosed\n", ("models.yaml", "line ")),
    "no list": ("models: script\n", ("models.yaml", "expected:")),
    "duplicate id": (
        MODELS + "  - id: embed\n    source: {path: x.gguf}\n",
        ("embed", "a second time"),
    ),
    "duplicate port": (
        MODELS.replace("n_ctx: 4096", "port: 20000") + SECOND + "    port: 20000\n",
        ("port", "20000"),
    ),
    "unknown field": (MODELS.replace("n_ctx: 4096", "n_ctxt: 4096"), ("n_ctxt", "n_ctx")),
    "wrong type": (MODELS.replace("n_ctx: 4096", "n_ctx: lots"), ("n_ctx", "expected:")),
    "missing file": (MODELS + "  - id: lost\n    source: {path: lost.gguf}\n", ("lost.gguf",)),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_models_yaml(undisturbed: Checkout, text: str, words: tuple[str, ...]) -> None:
    (undisturbed.path / "config" / "models.yaml").write_text(text)
    told(undisturbed.console("start"), "do:", *words)


def test_a_truncated_model(undisturbed: Checkout) -> None:
    models = undisturbed.path / "models"
    whole = (models / "script.gguf").read_bytes()
    damaged = models / "damaged.gguf"
    damaged.write_bytes(whole[: len(whole) // 2])
    try:
        told(undisturbed.console("use", "damaged"), "damaged.gguf", "incompletely", "do:")
        told(undisturbed.console("start", "--model", "damaged"), "damaged", "incompletely", "do:")
    finally:
        damaged.unlink()


def test_a_half_copied_model_is_nothing_to_the_others(undisturbed: Checkout) -> None:
    half = undisturbed.path / "models" / "half.gguf"
    half.write_bytes((half.parent / "script.gguf").read_bytes()[:1000])
    try:
        run = undisturbed.start()
    finally:
        half.unlink()
    assert "half" not in undisturbed.pids(), run.screen


def test_a_remembered_model_that_is_gone(with_models: Checkout) -> None:
    """The choice falls back to what is there, and says so."""
    models = with_models.path / "models"
    short = models / "short-lived.gguf"
    short.write_bytes((models / "script.gguf").read_bytes())
    with_models.start("single", "--model", "short-lived")
    assert "llama-short-lived" in with_models.pids()
    short.unlink()
    again = with_models.start()
    assert "short-lived" in again.screen
    assert "llama-script" in with_models.pids()


def test_an_unknown_model(undisturbed: Checkout) -> None:
    told(undisturbed.console("use", "scirpt"), "scirpt", "script")
    told(undisturbed.console("start", "--model", "nosuch"), "nosuch")
    told(undisturbed.console("add", "nosuch"), "nosuch")


@pytest.mark.parametrize("setting", ["LLAMA_PROXY_PORT", "LLAMA_SERVER_PORT", "POSTGRES_AUTH_PORT"])
def test_a_busy_port(undisturbed: Checkout, setting: str) -> None:
    port = undisturbed.model_port + 6
    with listening(port):
        run = undisturbed.console("start", env={setting: str(port)})
    told(run, str(port), setting, "in use", "do:")


@pytest.mark.parametrize(
    "setting",
    [
        "LLAMA_PROXY_PORT=eighty",
        "POSTGRES_AUTH_PORT=70000",
        "LLAMA_PROXY_RATE_LIMIT=many",
        "LLAMA_PROXY_DAY_BUDGET=100,000",
        "LLAMA_PROXY_MAX_CONCURRENT=two",
        "LLAMA_PROXY_LOG_RETENTION_DAYS=30d",
    ],
)
def test_a_number_that_is_none(undisturbed: Checkout, setting: str) -> None:
    name, _, value = setting.partition("=")
    told(undisturbed.console("start", env={name: value}), name, value, "expected")


def test_a_routes_file_that_is_not_yaml(undisturbed: Checkout) -> None:
    routes = undisturbed.path / "config" / "proxy_routes.yaml"
    before = routes.read_text()
    routes.write_text("models: [oops\n")
    try:
        told(undisturbed.console("start"), "proxy_routes.yaml", "do:")
    finally:
        routes.write_text(before)


@pytest.fixture
def no_compiler(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> str:
    """A PATH with every program but compilers."""
    programs = folder / "no-compiler"
    programs.mkdir(exist_ok=True)
    for place in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in Path(place).glob("*"):
            compiler = program.name.startswith(("cc", "c++", "gcc", "g++", "clang", "x86_64-linux"))
            if not compiler and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    return str(programs)


def test_no_compiler_and_no_wheel(undisturbed: Checkout, no_compiler: str, folder: Path) -> None:
    empty = folder / "empty-wheelhouse"
    empty.mkdir(exist_ok=True)
    environment = {"PATH": no_compiler, "LLAMAKIT_WHEELHOUSE": str(empty)}
    kept = undisturbed.path / "runtime" / "wheelhouse"
    lost = kept.rename(kept.with_name("wheelhouse-lost"))
    try:
        run = undisturbed.console("start", env=environment)
    finally:
        lost.rename(kept)
    told(run, "no cc", "apt-get install gcc g++", "LLAMAKIT_WHEELHOUSE")


# --- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[[Path, int], None]]:
    """``small_disk(folder, megabytes)`` puts a file system of that size there."""
    mounted: list[Path] = []

    def mount(target: Path, megabytes: int) -> None:
        options = f"size={megabytes}m,mode=0755"
        command = ["mount", "-t", "tmpfs", "-o", options, "llamakit-test", str(target)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine lets nobody mount a file system")
        mounted.append(target)

    yield mount
    for target in mounted:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@ROOT_ONLY
def test_a_disk_that_is_full_before_anything_is_installed(
    new_checkout: NewCheckout, small_disk: Callable[[Path, int], None]
) -> None:
    checkout = new_checkout("user")
    runtime = checkout.path / "runtime"
    runtime.mkdir()
    small_disk(runtime, 40)
    checkout.account.own(runtime)
    told(checkout.console("start"), "No space left", "df -h runtime")


@ROOT_ONLY
def test_a_disk_that_fills_up_later(
    undisturbed: Checkout, small_disk: Callable[[Path, int], None], folder: Path
) -> None:
    """The next start refuses to go on, and leaves what runs alone."""
    disk = folder / "disk"
    disk.mkdir()
    small_disk(disk, 40)
    undisturbed.account.own(disk)
    python = undisturbed.path / "runtime" / "controller" / "bin" / "python"
    places = [f"--{name}-dir={disk}" for name in ("state", "models", "smoke")]
    checked = undisturbed.run(
        [str(python), "-m", "llamakit", "preflight", "--allow-smoke", *places],
        env={"PYTHONPATH": str(undisturbed.path / "files" / "kit" / "src")},
    )
    told(checked, f"the disk of {disk}", "free", "do:")
    assert list(disk.iterdir()) == []
